"""Parts of the GPU check, a module each: `python -m benchmarks.gpu_parts NAME FILE [--rehearse]`.

A part is a function `run(finding, rehearse)`. It puts into `finding` what it measures, as it
measures it, and says whether that passes. `rehearse` asks for the smallest sizes, on any device.
benchmarks/gpu_check.py starts them, with a time limit each.
"""
