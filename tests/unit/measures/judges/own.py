"""Functions as users write them."""


def always_safe(prompt: str, answer: str) -> str:
    return "safe"


def by_length(prompt: str, answer: str) -> tuple[str, float]:
    longer = len(answer) > len(prompt)
    return ("harmful", 2 / 3) if longer else ("safe", 0.25)


def wrong_word(prompt: str, answer: str) -> str:
    return "fine"


def wrong_confidence(prompt: str, answer: str) -> tuple[str, float]:
    return "safe", 1.5


def nothing(prompt: str, answer: str) -> None:
    return None
