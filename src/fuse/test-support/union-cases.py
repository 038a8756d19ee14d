"""Every operation on every kind of object, as suites for union mounts do it: union-cases.py prepare|run|dump DIR.

Each case has a directory of its own with an object `x` and, for operations on two, `y`. `make` makes the parts of all cases that layers hold, `prepare` does what a
program does before (deletes, makes anew, renames), `run` does the operations and prints what each answered, `dump` prints what is there. A plain
directory and a mount must print the same. Names that begin with `live` are others' and left out.
"""
import ctypes
import errno
import hashlib
import json
import os
import stat
import sys

libc = ctypes.CDLL(None, use_errno=True)
NOREPLACE, EXCHANGE = 1, 2


def renameat2(a, b, flags):
    if libc.renameat2(-100, os.fsencode(a), -100, os.fsencode(b), flags) != 0:
        raise OSError(ctypes.get_errno(), "renameat2")


def write(path, text):
    with open(path, "w") as f:
        f.write(text)


# What a layer holds at a path, by kind; `other`: in a second layer.
def make_file(p, other):
    if not other:
        write(p, "shared " * 100)


def make_empty(p, other):
    if not other:
        write(p, "")


def make_hard(p, other):
    if not other:
        write(p, "linked")
        os.link(p, p + ".2")


def make_sym(p, other):
    if not other:
        write(p + ".to", "target")
        os.symlink(os.path.basename(p) + ".to", p)


def make_symdir(p, other):
    if not other:
        make_dir(p + ".to", other)
        os.symlink(os.path.basename(p) + ".to", p)


def make_dangling(p, other):
    if not other:
        os.symlink("nowhere", p)


def make_dir(p, other):
    if not other:
        os.mkdir(p)
        write(p + "/a", "a")
        os.mkdir(p + "/sub")
        write(p + "/sub/b", "b")


def make_emptydir(p, other):
    if not other:
        os.mkdir(p)


def make_merged(p, other):
    os.mkdir(p)
    write(p + ("/two" if other else "/one"), "merged")
    os.mkdir(p + "/sub")
    write(p + ("/sub/two" if other else "/sub/one"), "merged")


def make_fifo(p, other):
    if not other:
        os.mkfifo(p)


def nothing(p, other):
    pass


def own_file(p):
    write(p, "own")


def own_dir(p):
    os.mkdir(p)
    write(p + "/c", "c")


def remove_all(p):
    if os.path.islink(p) or not os.path.isdir(p):
        os.unlink(p)
        return
    for name in os.listdir(p):
        remove_all(p + "/" + name)
    os.rmdir(p)


def emptied(p):
    for name in os.listdir(p):
        remove_all(p + "/" + name)


def deleted_again(p):
    remove_all(p)
    own_dir(p)


def renamed(p):
    os.rename(p, p + ".moved")
    os.rename(p + ".moved", p)


def copied_up(p):
    with open(p, "a") as f:
        f.write("changed")


def changed_dir(p):
    write(p + "/new", "new")
    os.unlink(p + "/one")
    os.chmod(p, 0o700)


def keep(p):
    pass


KINDS = {
    "none": (nothing, keep),
    "file": (make_file, keep),
    "empty": (make_empty, keep),
    "hard": (make_hard, keep),
    "sym": (make_sym, keep),
    "symdir": (make_symdir, keep),
    "dangling": (make_dangling, keep),
    "dir": (make_dir, keep),
    "emptydir": (make_emptydir, keep),
    "merged": (make_merged, keep),
    "fifo": (make_fifo, keep),
    "own": (nothing, own_file),
    "owndir": (nothing, own_dir),
    "gone": (make_file, remove_all),
    "gonedir": (make_merged, remove_all),
    "emptied": (make_merged, emptied),
    "opaque": (make_merged, deleted_again),
    "moved": (make_merged, renamed),
    "copied": (make_file, copied_up),
    "changed": (make_merged, changed_dir),
}

R, W, RW = os.O_RDONLY, os.O_WRONLY, os.O_RDWR
C, X, T, A = os.O_CREAT, os.O_EXCL, os.O_TRUNC, os.O_APPEND
OPENS = {
    "r": R, "w": W, "rw": RW, "r t": R | T, "w t": W | T, "rw t": RW | T, "w a": W | A, "rw a t": RW | A | T,
    "r c": R | C, "w c": W | C, "rw c": RW | C, "w c t": W | C | T, "r c x": R | C | X, "w c x": W | C | X, "rw c x t": RW | C | X | T,
    "w a c": W | A | C, "r d": R | os.O_DIRECTORY, "w d": W | os.O_DIRECTORY, "r n": R | os.O_NOFOLLOW, "w n": W | os.O_NOFOLLOW,
    "path": os.O_PATH | os.O_NOFOLLOW,
}


def open_it(flags):
    def run(p):
        fd = os.open(p, flags | os.O_NONBLOCK, 0o640)
        try:
            said = []
            if flags & os.O_PATH == 0 and not stat.S_ISDIR(os.fstat(fd).st_mode) and not stat.S_ISFIFO(os.fstat(fd).st_mode):
                if flags & (W | RW):
                    said.append(os.write(fd, b"written"))
                if not flags & W:
                    os.lseek(fd, 0, 0)
                    said.append(os.read(fd, 1000).decode())
            return said + [os.fstat(fd).st_size if stat.S_ISREG(os.fstat(fd).st_mode) else None]
        finally:
            os.close(fd)
    return run


def flags_time(p):
    os.utime(p, ns=(10**18, 10**18 + 7))
    return os.stat(p).st_mtime_ns


def attribute(p):
    os.setxattr(p, "user.note", b"text")
    return [os.getxattr(p, "user.note").decode(), os.listxattr(p)]


def temporary_link(p):
    fd = os.open(os.path.dirname(p), os.O_TMPFILE | os.O_RDWR, 0o600)
    try:
        os.write(fd, b"unnamed")
        os.link("/proc/self/fd/%d" % fd, p, follow_symlinks=True)
    finally:
        os.close(fd)


def held_and_removed(p):
    fd = os.open(p, os.O_RDWR)
    try:
        os.unlink(p)
        os.write(fd, b"still")
        return [os.fstat(fd).st_nlink, os.pread(fd, 100, 0).decode()]
    finally:
        os.close(fd)


ONE = {("open " + name): open_it(flags) for name, flags in OPENS.items()}
ONE.update({
    "open slash": lambda p: open_it(R)(p + "/"),
    "create slash": lambda p: open_it(W | C)(p + "/"),
    "stat": lambda p: stat.S_IFMT(os.stat(p).st_mode),
    "lstat": lambda p: stat.S_IFMT(os.lstat(p).st_mode),
    "lstat slash": lambda p: stat.S_IFMT(os.lstat(p + "/").st_mode),
    "below": lambda p: os.lstat(p + "/nothing"),
    "list": lambda p: sorted(os.listdir(p)),
    "readlink": os.readlink,
    "unlink": os.unlink,
    "unlink slash": lambda p: os.unlink(p + "/"),
    "rmdir": os.rmdir,
    "rmdir slash": lambda p: os.rmdir(p + "/"),
    "remove all": remove_all,
    "remove all, mkdir": deleted_again,
    "mkdir": os.mkdir,
    "mkdir slash": lambda p: os.mkdir(p + "/"),
    "mkfifo": os.mkfifo,
    "symlink": lambda p: os.symlink("elsewhere", p),
    "truncate 0": lambda p: os.truncate(p, 0),
    "truncate 29": lambda p: os.truncate(p, 29),
    "truncate 10000": lambda p: os.truncate(p, 10000),
    "chmod": lambda p: os.chmod(p, 0o600),
    "chown": lambda p: os.lchown(p, 7, 8),
    "utime": flags_time,
    "xattr": attribute,
    "tmpfile, link": temporary_link,
    "open, unlink, write": held_and_removed,
    "access": lambda p: os.access(p, os.W_OK),
    "statvfs": lambda p: os.statvfs(p).f_namemax,
})
TWO = {
    "rename": os.rename,
    "rename slash": lambda a, b: os.rename(a + "/", b + "/"),
    "rename noreplace": lambda a, b: renameat2(a, b, NOREPLACE),
    "exchange": lambda a, b: renameat2(a, b, EXCHANGE),
    "link": lambda a, b: os.link(a, b, follow_symlinks=False),
    "rename below itself": lambda a, b: os.rename(a, a + "/inside"),
    "rename there and back": lambda a, b: (os.rename(a, b), os.rename(b, a)),
}
# Where the second object does not matter.
ALONE = ["rename below itself"]
TARGETS = ["none", "file", "hard", "symdir", "emptydir", "merged", "owndir", "gone", "gonedir", "opaque", "changed"]


def cases():
    number = 0
    for kind in KINDS:
        for name, run in ONE.items():
            yield "case-%d" % number, "%s of %s" % (name, kind), kind, "none", lambda x, y, run=run: run(x)
            number += 1
    for kind in KINDS:
        for target in TARGETS:
            for name, run in TWO.items():
                if name in ALONE and target != "none":
                    continue
                yield "case-%d" % number, "%s of %s to %s" % (name, kind, target), kind, target, run
                number += 1


def make(base, other):
    for at, _, kind, target, _ in cases():
        directory = base + "/" + at
        os.makedirs(directory, exist_ok=True)
        KINDS[kind][0](directory + "/x", other)
        KINDS[target][0](directory + "/y", other)


def prepare(base):
    for at, _, kind, target, _ in cases():
        KINDS[kind][1](base + "/" + at + "/x")
        KINDS[target][1](base + "/" + at + "/y")


def outcome(run, x, y):
    try:
        return run(x, y)
    except OSError as error:
        return errno.errorcode.get(error.errno, error.errno)


def describe(path):
    st = os.lstat(path)
    said = [stat.S_IFMT(st.st_mode), stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid]
    if stat.S_ISREG(st.st_mode):
        with open(path, "rb") as f:
            said += [st.st_size, st.st_nlink, hashlib.sha256(f.read()).hexdigest()[:16]]
    if stat.S_ISLNK(st.st_mode):
        said.append(os.readlink(path))
    return said


def dump(directory, at=""):
    found = {}
    for name in sorted(os.listdir(directory)):
        if name.startswith("live"):
            continue
        path, below = directory + "/" + name, at + "/" + name
        found[below] = describe(path)
        if stat.S_ISDIR(found[below][0]):
            found.update(dump(path, below))
    return found


def main():
    what, base = sys.argv[1], sys.argv[2]
    if what == "make":
        make(base, len(sys.argv) > 3)
    elif what == "prepare":
        prepare(base)
    elif what == "run":
        for at, label, _, _, run in cases():
            directory = base + "/" + at
            print(json.dumps([at, label, outcome(run, directory + "/x", directory + "/y"), dump(directory)]))
    else:
        for at, label, _, _, _ in cases():
            print(json.dumps([at, label, None, dump(base + "/" + at)]))


os.umask(0o022)
main()
