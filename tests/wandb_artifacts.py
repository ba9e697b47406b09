"""Artifacts of the fake W&B server: a client creates a version, uploads its files, commits it.

Each operation is answered as the GraphQL query of the client asks.
"""

from dataclasses import dataclass, field
from urllib.parse import quote


@dataclass
class Version:
    """One version of an artifact."""

    id: str
    collection: str
    index: int
    sent: dict  # The input of the client's request.
    aliases: set[str]
    files: list[str] = field(default_factory=list)
    is_committed: bool = False


class Artifacts:
    """All artifacts of the server; file contents are among its uploads."""

    def __init__(self, url: str, project: dict) -> None:
        self._url = url
        self._project = {**project, "internalId": "1"}
        self.versions: list[Version] = []

    def find(self, collection: str, alias: str) -> Version | None:
        """Returns the committed version of an artifact with this alias, or number: v0."""
        for version in reversed(self.versions):
            known = version.is_committed and version.collection == collection
            if known and alias in {*version.aliases, f"v{version.index}"}:
                return version
        return None

    def of_type(self, kind: str) -> list[Version]:
        """Returns the committed versions of a type, oldest first."""
        committed = [version for version in self.versions if version.is_committed]
        return [version for version in committed if version.sent["artifactTypeName"] == kind]

    def answers(self, operation: str, variables: dict) -> dict | None:
        """Returns the content of the response; None for an operation of something else."""
        answer = {
            "CreateArtifact": self._create,
            "CreateArtifactManifest": self._create_manifest,
            "CreateArtifactFiles": self._create_files,
            "CommitArtifact": self._commit,
            "ArtifactByID": lambda sent: {"artifact": self._describe(self._by_id(sent["id"]))},
            "ArtifactMembershipByName": self._by_name,
            "FetchArtifactManifest": self._manifest,
            "GetArtifactMembershipFileUrls": self._file_urls,
        }.get(operation)
        return answer(variables) if answer else None

    def path(self, version: Version, name: str) -> str:
        """Returns the upload path of one of a version's files."""
        return f"artifacts/{version.id}/{name}"

    def _address(self, version: Version, name: str) -> str:
        return f"{self._url}/upload/{quote(self.path(version, name))}"

    def _by_id(self, number: str) -> Version:
        return next(version for version in self.versions if version.id == number)

    def _create(self, variables: dict) -> dict:
        sent = variables["input"]
        collection = sent["artifactCollectionName"]
        before = [version for version in self.versions if version.collection == collection]
        same = [version for version in before if version.sent["digest"] == sent["digest"]]
        aliases = {one["alias"] for one in sent["aliases"]}
        for version in before:
            version.aliases -= aliases
        if same:
            same[-1].aliases |= aliases
        else:
            number = f"artifact-{len(self.versions) + 1}"
            self.versions.append(Version(number, collection, len(before), sent, aliases))
        version = same[-1] if same else self.versions[-1]
        state = "COMMITTED" if version.is_committed else "PENDING"
        sequence = {"id": collection, "latestArtifact": None}
        made = {"id": version.id, "state": state, "artifactSequence": sequence}
        return {"createArtifact": {"artifact": made}}

    def _create_manifest(self, variables: dict) -> dict:
        version = self._by_id(variables["artifactID"])
        url = self._address(version, "manifest")
        file = {"id": f"file-{version.id}", "uploadUrl": url, "uploadHeaders": []}
        manifest = {"id": f"manifest-{version.id}", "file": file}
        return {"createArtifactManifest": {"artifactManifest": manifest}}

    def _create_files(self, variables: dict) -> dict:
        edges = []
        for file in variables["input"]["artifactFiles"]:
            version = self._by_id(file["artifactID"])
            version.files.append(file["name"])
            node = {
                "storagePath": f"store/{file['name']}",
                "uploadUrl": self._address(version, f"files/{file['name']}"),
                "uploadHeaders": [],
                "uploadMultipartUrls": None,
                "artifact": {"id": version.id},
            }
            edges.append({"node": node})
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def _commit(self, variables: dict) -> dict:
        version = self._by_id(variables["artifactID"])
        version.is_committed = True
        made = {"id": version.id, "digest": version.sent["digest"]}
        return {"commitArtifact": {"artifact": made}}

    def _describe(self, version: Version) -> dict:
        source = {
            "__typename": "ArtifactSequence",
            "name": version.collection,
            "project": self._project,
        }
        sent = version.sent
        return {
            "__typename": "Artifact",
            "id": version.id,
            "artifactSequence": source,
            "versionIndex": version.index,
            "artifactType": {"name": sent["artifactTypeName"]},
            "description": None,
            "metadata": sent["metadata"],
            "ttlDurationSeconds": -2,
            "ttlIsInherited": True,
            "tags": [],
            "historyStep": None,
            "state": "COMMITTED",
            "size": 0,
            "digest": sent["digest"],
            "digestAlgorithm": "MANIFEST_MD5",
            "commitHash": None,
            "fileCount": len(version.files),
            "createdAt": "2026-01-01T00:00:00Z",
            "updatedAt": None,
            "aliases": [
                {**alias, "artifactCollection": source} for alias in self._aliases(version)
            ],
        }

    def _aliases(self, version: Version) -> list[dict]:
        return [
            {"__typename": "ArtifactAlias", "id": f"alias-{alias}", "alias": alias}
            for alias in sorted(version.aliases)
        ]

    def _by_name(self, variables: dict) -> dict:
        version = self.find(*variables["name"].split(":"))
        membership = version and {
            "__typename": "ArtifactCollectionMembership",
            "id": f"membership-{version.id}",
            "versionIndex": version.index,
            "createdAt": "2026-01-01T00:00:00Z",
            "aliases": self._aliases(version),
            "artifactCollection": self._describe(version)["artifactSequence"],
            "artifact": self._describe(version),
        }
        return {"project": {"artifactCollectionMembership": membership}}

    def _manifest(self, variables: dict) -> dict:
        url = self._address(self._by_id(variables["id"]), "manifest")
        return {"artifact": {"currentManifest": {"file": {"directUrl": url}}}}

    def _file_urls(self, variables: dict) -> dict:
        version = self.find(variables["collection"], variables["alias"])
        nodes = [
            {
                "__typename": "File",
                "name": name,
                "directUrl": self._address(version, f"files/{name}"),
            }
            for name in version.files
        ]
        files = {
            "pageInfo": {"endCursor": None, "hasNextPage": False},
            "edges": [{"node": node} for node in nodes],
        }
        membership = {"artifactMembership": {"files": files}}
        return {"project": {"artifactCollection": {"__typename": "ArtifactSequence", **membership}}}
