"use strict";
// The tokenizers of input_pipeline/tokenizers.py, from what playground_page/vocabulary.py wrote.
//
// A tokenizer has `bytes`, the UTF-8 bytes of each token, and encode(text), which returns
// - tokens: the ids,
// - tokenAt: for each character (code point) the place in `tokens` of the last token that was made
//   from a byte of it; for a character that was left out, of the token before it; -1 if none is,
// - unknown: the characters that were left out, each once.

// GPT-2's regular expression for words. \s would not be Unicode's white space: it has U+FEFF, which
// is none, and lacks U+0085.
const GPT2_WORD =
  /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;
const ENCODER = new TextEncoder();
const WHITE_SPACE = /^\p{White_Space}$/u;
// A character of a word, as \w in Rust.
const WORD_CHARACTER = "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}]";

// Returns the tokenizer that was exported.
function openTokenizer(exported) {
  return { char: charTokenizer, byte: byteTokenizer, bpe: bytePairTokenizer }[exported.kind](exported);
}

// Returns the tokenizer of one token per character.
function charTokenizer({ vocabulary }) {
  const characters = Array.from(vocabulary);
  const ids = new Map(characters.map((character, token) => [character, token]));

  function encode(text) {
    const tokens = [];
    const unknown = new Set();
    const tokenAt = Int32Array.from(text, (character) => {
      if (ids.has(character)) tokens.push(ids.get(character));
      else unknown.add(character);
      return tokens.length - 1;
    });
    return { tokens, tokenAt, unknown: [...unknown] };
  }

  return { encode, bytes: characters.map(utf8) };
}

// Returns the tokenizer of one token per byte of UTF-8.
function byteTokenizer() {
  function encode(text) {
    const bytes = utf8(valid(text));
    return { tokens: [...bytes], tokenAt: Int32Array.from(lastBytes(bytes)), unknown: [] };
  }

  return { encode, bytes: Array.from({ length: 256 }, (_, byte) => Uint8Array.of(byte)) };
}

// Returns the tokenizer of a byte-pair encoding (Sennrich et al., 2016) with GPT-2's words.
function bytePairTokenizer({ pieces, alphabet, merges, added, prefix_space }) {
  // By pair, how early it is merged. Ranks count in threes: merges[rank] is the left token, then
  // come the right one and both.
  const ranks = new Map();
  const key = (left, right) => left * pieces.length + right;
  for (let rank = 0; rank < merges.length; rank += 3) ranks.set(key(merges[rank], merges[rank + 1]), rank);
  const never = merges.length;
  const rankOf = (left, right) => ranks.get(key(left, right)) ?? never;
  const isWhole = !alphabet.includes(null);
  const isUnknown = (character) => utf8(character).some((byte) => alphabet[byte] === null);
  const encodedWords = new Map();
  // Tokens beside the byte pairs: those that a normalizer must not touch are found first.
  const cuts = [false, true].map((normalized) => cutter(added.filter((token) => token.normalized === normalized)));

  // Merges the tokens of a word, the pair of lowest rank first and from left to right. `starts` has
  // the byte of the word that each token begins at.
  function merge(tokens, starts) {
    // The rank of each token with the next one; the last one has none, which is never merged.
    const pairs = tokens.map((token, place) => rankOf(token, tokens[place + 1]));
    for (;;) {
      const lowest = pairs.reduce((least, rank) => Math.min(least, rank), never);
      if (lowest === never) return;
      let kept = 0;
      let isLowest = true;
      for (let place = 0; place < tokens.length; place++, kept++) {
        tokens[kept] = tokens[place];
        starts[kept] = starts[place];
        pairs[kept] = pairs[place];
        if (pairs[kept] !== lowest || !isLowest) continue;
        place++;
        tokens[kept] = merges[lowest + 2];
        pairs[kept] = rankOf(tokens[kept], tokens[place + 1]);
        if (kept) pairs[kept - 1] = rankOf(tokens[kept - 1], tokens[kept]);
        // A pair that this merge made may come before the others of its rank.
        isLowest = pairs[kept] > lowest && !(pairs[kept - 1] < lowest);
      }
      tokens.length = starts.length = pairs.length = kept;
    }
  }

  // Returns what encode(text) returns, for a word.
  function encodeWord(word) {
    if (encodedWords.has(word)) return encodedWords.get(word);
    const tokens = [];
    const starts = [];
    const bytes = utf8(word);
    bytes.forEach((byte, place) => {
      if (alphabet[byte] === null) return;
      tokens.push(alphabet[byte]);
      starts.push(place);
    });
    merge(tokens, starts);
    let last = -1;
    const tokenAt = lastBytes(bytes).map((place) => {
      while (starts[last + 1] <= place) last++;
      return last;
    });
    const unknown = isWhole ? [] : Array.from(word).filter(isUnknown);
    encodedWords.set(word, { tokens, tokenAt, unknown });
    return encodedWords.get(word);
  }

  function encode(text) {
    const tokens = [];
    const tokenAt = [];
    const unknown = new Set();
    const whole = text ? [{ text: valid(text) }] : [];
    for (const part of cuts.reduce((parts, cut) => parts.flatMap(cut), whole)) {
      if (part.token) {
        tokens.push(part.token.id);
        for (const _ of part.text) tokenAt.push(tokens.length - 1);
        continue;
      }
      // A space before the first word is no character of the text.
      let added = prefix_space && !part.text.startsWith(" ") ? 1 : 0;
      for (const word of (" ".repeat(added) + part.text).match(GPT2_WORD)) {
        const encoded = encodeWord(word);
        for (const place of encoded.tokenAt.slice(added)) tokenAt.push(tokens.length + place);
        for (const token of encoded.tokens) tokens.push(token);
        for (const character of encoded.unknown) unknown.add(character);
        added = 0;
      }
    }
    return { tokens, tokenAt: Int32Array.from(tokenAt), unknown: [...unknown] };
  }

  return { encode, bytes: pieces.map(latin1) };
}

// Returns a function that cuts a part of a text into parts that are one of the tokens, {text, token},
// and those between them, {text}. Of tokens that begin at one place, the longest is taken.
function cutter(tokens) {
  if (!tokens.length) return (part) => [part];
  const named = new Map(tokens.map((token) => [token.content, token]));
  const names = [...named.keys()].sort((a, b) => b.length - a.length);
  const pattern = new RegExp(names.map((name) => name.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&")).join("|"), "gu");
  const wordBefore = new RegExp(`${WORD_CHARACTER}$`, "u");
  const wordAfter = new RegExp(`^${WORD_CHARACTER}`, "u");

  return (part) => {
    if (part.token) return [part];
    const parts = [];
    let end = 0;
    for (const { 0: name, index } of part.text.matchAll(pattern)) {
      const token = named.get(name);
      const next = index + name.length;
      // A character is two code units at most.
      const around = [part.text.slice(Math.max(0, index - 2), index), part.text.slice(next, next + 2)];
      if (token.single_word && (wordBefore.test(around[0]) || wordAfter.test(around[1]))) continue;
      // With lstrip, the token takes the white space before it.
      let start = index;
      while (token.lstrip && start > end && WHITE_SPACE.test(part.text[start - 1])) start--;
      if (end < start) parts.push({ text: part.text.slice(end, start) });
      end = next;
      parts.push({ text: part.text.slice(start, end), token });
    }
    if (end < part.text.length) parts.push({ text: part.text.slice(end) });
    return parts;
  };
}

// Returns a text with "?" for each lone surrogate, which UTF-8 can't encode.
function valid(text) {
  return text.replace(/\p{Surrogate}/gu, "?");
}

// Returns the place of the last byte of each character, from the UTF-8 bytes of a text.
function lastBytes(bytes) {
  const isFirst = (byte) => (byte & 0b11000000) !== 0b10000000; // Also of undefined, after the last.
  return [...bytes.keys()].filter((place) => isFirst(bytes[place + 1]));
}

// Returns the bytes of a text with one byte a character.
function latin1(text) {
  const bytes = new Uint8Array(text.length);
  for (let place = 0; place < text.length; place++) bytes[place] = text.charCodeAt(place);
  return bytes;
}

// Returns the UTF-8 bytes of a text.
function utf8(text) {
  return ENCODER.encode(text);
}
