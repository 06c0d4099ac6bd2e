"""``python -m framework`` says what there is to run."""

from __future__ import annotations


def main() -> None:
    """Point to the example."""
    print("asyncframe: background tasks for FastAPI")
    print("  python -m framework.example   serve the example app on 127.0.0.1:8000")


if __name__ == "__main__":
    main()
