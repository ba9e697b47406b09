"""Parts of the GPU check, a module each: `python -m benchmarks.gpu_parts NAME [--rehearse] FILE`.

A part is a function `run(finding, rehearse)`. It puts into `finding` what it measures, as it
measures it, and judges whether that passes; the figure "summary" is for the table. `rehearse` asks
for the smallest sizes, on any device. benchmarks/gpu_check.py starts them, with a time limit each.
"""
