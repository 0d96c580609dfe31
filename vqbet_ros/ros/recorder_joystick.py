"""The buttons of a joystick as commands to the recorder."""

from collections.abc import Mapping, Sequence

START, STOP, DISCARD, SUCCESS, FAILURE = 'start', 'stop', 'discard', 'success', 'failure'


class Buttons:
    """Finds which commands the latest message of a joystick gives.

    A command is given when its button goes down, once; one that is down already in the first
    message, or when the joystick comes back, gives none.

    Args:
        mapping: From a command to the index of its button; below 0: none.
    """

    def __init__(self, mapping: Mapping[str, int]) -> None:
        """Wait for the first message."""
        self._mapping = {command: index for command, index in mapping.items() if index >= 0}
        self._down: list[bool] | None = None

    def pressed(self, buttons: Sequence[int], *, recording: bool) -> list[str]:
        """Take a message.

        Args:
            buttons: 1 where a button is down.
            recording: Decides for a button that both starts and stops.

        Returns:
            The commands given.
        """
        before, self._down = self._down, [bool(button) for button in buttons]
        if before is None or len(before) != len(self._down):
            return []
        return [
            command
            for command, index in self._mapping.items()
            if index < len(before)
            and self._down[index]
            and not before[index]
            and self._applies(command, recording=recording)
        ]

    def _applies(self, command: str, *, recording: bool) -> bool:
        is_switch = self._mapping.get(START) == self._mapping.get(STOP)
        if is_switch and command in (START, STOP):
            return (command == STOP) == recording
        return True
