"""CLIP-D's grammar: a descriptor behind a class name (Menon and Vondrick, ICLR 2023)."""

from __future__ import annotations


def clause(descriptor: str) -> str:
    """Make a clause of a descriptor, by its first letters as the released program does.

    It is "which is ..." before the letter a and before "used"; "which ..." before has, often, typically, may and can; else
    "which has ...". A descriptor that begins with "which" is a clause already.
    """
    if descriptor.startswith(("a", "used")):
        return f"which is {descriptor}"
    if descriptor.startswith(("has", "often", "typically", "may", "can")):
        return f"which {descriptor}"
    return descriptor if descriptor.startswith("which ") else f"which has {descriptor}"


def descriptor_sentence(name: str, descriptor: str, *, before: str = "", end: str = "") -> str:
    """Put a descriptor behind a class name: "{before}{name}, {clause}{end}", with spaces for the name's underscores."""
    return f"{before}{name.replace('_', ' ')}, {clause(descriptor)}{end}"
