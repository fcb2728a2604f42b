"""Judges of quantized tensors and of products, and what they say of a wrong one.

    compare_quantized    is a QTensor what a correct quantizer makes of x?      quantized.py
    explain_product      why is a product outside its bound?                    product_report.py

What is right: `scales` (scale bytes), `bounds` (codes of blocks), `rows` (formats without blocks), `global_scale`.
What is said: `report`, from `causes` (what the bytes look like), `candidates` (another rule or option that explains it
all), `source` and `reproduce` (a program that repeats the case); `product_causes` for products.
"""

from .product_report import explain as explain_product
from .quantized import compare_quantized

__all__ = ["compare_quantized", "explain_product"]
