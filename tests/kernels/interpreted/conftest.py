"""Triton's language stays the interpreter's.

The interpreter replaces the language's functions anew at each call of each function, which takes more than half of its time. Everything in
this process is interpreted: they are replaced once, and nothing is taken back.
"""

from types import SimpleNamespace

import triton.language as tl
from triton.runtime import interpreter

interpreter._patch_lang(SimpleNamespace(__globals__={"tl": tl, "core": tl.core}))
interpreter._patch_lang = lambda fn: interpreter._LangPatchScope()
