"""Parts of the GPU check, a module each: `python -m benchmarks.gpu_parts NAME [--rehearse] FILE`.

A part is a function `run(finding, rehearse)`. It records its figures as it measures them and
decides if it passes; the figure "summary" is for the table. `rehearse` asks for the smallest sizes,
on any device. benchmarks/gpu_check.py starts each part with a time limit.
"""
