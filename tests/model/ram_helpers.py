"""Memories, RAM sections to load into them, and records."""

from testbed.model.migration.memory import Memory
from testbed.model.migration.ram_load import RamLoad
from testbed.model.profile import PROFILES
from testbed.vmstate import Incoming, VmStateFailed

PAGE = 4096
HUGE = 2 << 20


def small_memory():
    """A block of 16 pages and one of 4, one that can grow, and one that stays where it is."""
    memory = Memory()
    memory.add("pc.bios", 4 * PAGE)
    memory.add("pc.ram", 16 * PAGE)
    memory.add("/rom@tables", 2 * PAGE, max_bytes=3 * PAGE)
    memory.add("local", 1 * PAGE, is_migratable=False)
    return memory


def filled(number, size=PAGE):
    return bytes([number]) * size


def word(at, flags):
    return (at | flags).to_bytes(8, "big")


def named(idstr):
    return bytes([len(idstr)]) + idstr.encode()


EOS = word(0, 0x10)


class Loading:
    """A RAM handler of a destination, and what became of what it was given."""

    def __init__(self, memory=None, profile="7.2"):
        self.memory = memory or small_memory()
        self.ram = RamLoad(self.memory, PROFILES[profile])

    def load(self, *pieces, ended=True, version_id=4):
        """The lines of a refusal and its return value; None if it was loaded."""
        source = Incoming(b"".join(pieces), ended=ended)
        try:
            for _ in self.ram.load(source, version_id):
                return "waits"
        except VmStateFailed as failed:
            return failed.ret, *failed.lines
        assert not source.available, "all of it was read"
        return None

    def load_by(self, step, data):
        """The same, of bytes that come a few at a time."""
        source = Incoming()
        story = self.ram.load(source, 4)
        for at in range(0, len(data), step):
            try:
                next(story)
            except StopIteration:
                return
            source.feed(data[at : at + step])
        for _ in story:
            raise AssertionError("it wants more than there is")

    def page(self, idstr, number):
        return self.memory.find(idstr).data[number * PAGE : (number + 1) * PAGE]

    def received(self, idstr):
        found = self.memory.find(idstr).received
        return [number for number, came in enumerate(found) if came]
