"""The texts that models are compared on: ours, or a file of the user's own, one text a line."""

from __future__ import annotations

from pathlib import Path

from ingraft.errors import UnusableInput

# Short and long, several scripts, questions and statements, digits, markup, one with next to nothing in it.
TEXTS: tuple[str, ...] = (
    "The ferry to the island leaves at noon.",
    "How do I reset the password of my account?",
    "heart failure",
    "A small engine needs clean oil, cold air and a patient mechanic.",
    "def mean(values): return sum(values) / len(values)",
    "The committee postponed the vote on the new budget because the auditors had not finished their report, and the "
    "treasurer refused to answer questions about money that nobody had counted yet.",
    "Where is the nearest train station?",
    "In 1987, 42 of the 1,365 samples were contaminated (3.1 %).",
    "bread, butter, salt",
    "Der Zug nach München hat heute fünfzehn Minuten Verspätung.",
    "Wie lange muss der Teig im Kühlschrank ruhen?",
    "La bibliothèque est fermée le lundi, sauf pendant les vacances scolaires.",
    "¿Cuánto cuesta enviar un paquete a Buenos Aires?",
    "A reunião foi adiada para quinta-feira à tarde.",
    "Il vino rosso si serve a temperatura ambiente.",
    "Собака спит у двери, пока за окном идёт дождь.",
    "昨天的会议讨论了明年的预算。",
    "この薬は食後に飲んでください。",
    "오늘 저녁에는 비가 올 것 같습니다.",
    "هل يمكنني تغيير موعد الحجز؟",
    "मुझे कल सुबह डॉक्टर के पास जाना है।",
    "Η βιβλιοθήκη ανοίγει στις εννέα το πρωί.",
    "Bu kitabı geçen yaz denizde okudum.",
    "<p>Terms &amp; conditions apply.</p>",
    "https://example.org/search?q=merged+weights&page=2",
    "NOT all adapters are linear; some are!",
    "zyx qqq 9f3a-77b1",
    "Water boils at a lower temperature on a mountain than at the sea, which is why potatoes take longer there.",
    "She wrote a short letter to the bank.",
    "Symptoms include fever, chills, a dry cough and pain in the chest that gets worse with every breath; most "
    "patients recover within two weeks, but older people and those with a weak heart should be examined early.",
    "yes",
    ".",
)
_WANTED = "Name a file with one text a line."


def read_texts(path: Path) -> list[str]:
    """The texts in a file, one a line; empty lines are left out. Raises UnusableInput when there is none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UnusableInput(f"{path} cannot be read: {error.strerror}.", hint=_WANTED) from None
    except UnicodeDecodeError:
        raise UnusableInput(f"{path} is not UTF-8 text.", hint="Save it as UTF-8.") from None
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise UnusableInput(f"{path} holds no text.", hint=_WANTED)
    return texts
