/**
 * The layered file system's two faces.
 *
 * VfsOperations is what a file server (FUSE, virtio-fs) calls: one instance per VLFS, all methods synchronous, no exceptions:
 * they return 0 (or a count) or a negative errno. Slow work is never done inside: the method returns PENDING after it has put a
 * job into `caller.job`; the server runs the job in the blocking pool and then, as the job says, repeats the same request or replies
 * with the job's result.
 *
 * VlfsSpec and StackSpec say what a VLFS is made of; fleet/ makes them, the data plane opens them.
 */
import type { Digest, Name } from '../base/index.ts';

export const PENDING = -1_000_000;

/** Work for the blocking pool. File descriptors are valid in every thread of the process. Identical object = one execution for all waiters. */
export type SlowJob = { then: 'retry' | 'reply' } & (
  | { kind: 'fsync'; fd: number; dataOnly: boolean; done?: (errno: number) => void }
  | { kind: 'syncfs'; fd: number }
  /** What these files hold is on the disk before any later change of a name is (see keepsOrder); 0 or an errno. */
  | { kind: 'write-out'; fds: number[]; done: (errno: number) => void }
  /** Copies [0, sizeBytes) sparsely from one open file to another (FICLONE first, then copy_file_range / SEEK_DATA). */
  | { kind: 'copy-data'; fromFd: number; toFd: number; sizeBytes: number; done?: (errno: number) => void }
  | {
      kind: 'copy-range';
      fromFd: number;
      fromOffset: number;
      toFd: number;
      toOffset: number;
      sizeBytes: number;
      done?: (errno: number) => void;
    }
  | {
      kind: 'fallocate';
      fd: number;
      mode: number;
      offset: number;
      length: number;
      done?: (errno: number) => void;
    }
  | { kind: 'truncate'; fd: number; sizeBytes: number; done?: (errno: number) => void }
  /** Not for the pool: work of the VLFS's own thread between requests. Goes on until `untilMs` (performance.now()); null: there is more to do, else the result. */
  | { kind: 'steps'; advance(untilMs: number): number | null }
  /** Not for the pool: ends when all copies that follow a freeze are made. */
  | { kind: 'follow' }
  /** Lets a scanner judge the content, as `file` says; 0 is clean. `digest`: of shared content, by its index. */
  | { kind: 'scan'; fd: number; digest: Digest | null; file: string; done?: (errno: number) => void }
  /** Copies pieces (offset, length, offset, length ...) of a file to the same places of another; `clone`: the whole file by FICLONE, if that succeeds. */
  | {
      kind: 'fill';
      fromFd: number;
      toFd: number;
      pieces: number[];
      clone: boolean;
      done: (errno: number) => void;
    }
);

export interface Caller {
  uid: number;
  gid: number;
  pid: number;
  umask: number;
  /** For open and create: an O_TRUNC must clear setuid, setgid and security.capability (FUSE_OPEN_KILL_SUIDGID). */
  killPriv?: boolean;
  /** Set by the VLFS together with the return value PENDING. */
  job: SlowJob | null;
}

/** Times are seconds and nanoseconds; all numbers are safe integers. One object is reused by the server for every reply. */
export interface Attr {
  ino: number;
  size: number;
  blocks: number;
  atimeSec: number;
  atimeNsec: number;
  mtimeSec: number;
  mtimeNsec: number;
  ctimeSec: number;
  ctimeNsec: number;
  mode: number;
  nlink: number;
  uid: number;
  gid: number;
  rdev: number;
  blksize: number;
}

/** Reply to lookup, create, mkdir ...; nodeId 0 is a cacheable negative entry. Every reply with nodeId > 0 counts one lookup (forget). */
export interface EntryOut {
  nodeId: number;
  generation: number;
  attr: Attr;
  /** How long the kernel may trust name and attributes; the server turns them into sec + nsec. */
  entryValidMs: number;
  attrValidMs: number;
}

export interface OpenOut {
  /** Handle for read, write, release ...; a small integer that the VLFS gives out. */
  fh: number;
  /**
   * Backing descriptor for FUSE passthrough (owned by the VLFS, valid until release), or -1 for I/O through the server.
   * Linux allows one backing file a node at a time: while a passthrough open of a node lives, every further open of that node must
   * give the same backing file (-1 becomes ETXTBSY). So a node whose backing file changes (copy-up, relayer) needs a NEW node id
   * for later opens: answer ESTALE to an open of the old one and the kernel walks the path again.
   * Passthrough writes run with the privileges of who registered the backing file, so the kernel may leave setuid bits alone: for an
   * open for writing of a file that has any, give directIo with the backingFd.
   */
  backingFd: number;
  /** Nobody can write through the backing file. */
  backingReadOnly: boolean;
  /** Reads and writes go through the server, not the page cache; with a backingFd, mmap still reaches the backing file. */
  directIo: boolean;
  keepCache: boolean;
  /**
   * The backing file may stay open after the last release, for the next open of this node: what was registered for it may be used again
   * until onBackingClosed (VlfsOptions) names the node.
   */
  keepsBacking: boolean;
}

/** FATTR_* bits of linux/fuse.h say which fields count. */
export interface SetAttrIn {
  valid: number;
  fh: number;
  size: number;
  atimeSec: number;
  atimeNsec: number;
  mtimeSec: number;
  mtimeNsec: number;
  ctimeSec: number;
  ctimeNsec: number;
  mode: number;
  uid: number;
  gid: number;
}

export interface StatfsOut {
  blocks: number;
  bfree: number;
  bavail: number;
  files: number;
  ffree: number;
  bsize: number;
  namelen: number;
  frsize: number;
}

/** The server's directory buffer. */
export interface DirectorySink {
  /** True when the kernel wants attributes too (READDIRPLUS). */
  readonly plus: boolean;
  /** Returns false when the buffer is full; then this entry was not added. `next` is the cookie after this entry. `type` is DT_*. */
  add(name: Name, ino: number, type: number, next: number): boolean;
  /** For plus: space check first, then fill `entry` by a lookup (which counts), then addPlus. */
  hasRoomFor(name: Name): boolean;
  addPlus(name: Name, next: number, type: number, entry: EntryOut): void;
}

export interface VfsOperations {
  /** Called once after the kernel's INIT with what the connection can do. */
  init(capabilities: {
    passthrough: boolean;
    killPriv: boolean;
    posixAcl: boolean;
    dontMask: boolean;
    noOpen: boolean;
  }): void;
  /** Whether the kernel should open files without asking: then there are no handles (fh is 0) and no passthrough. */
  wantsNoOpen?(): boolean;
  lookup(caller: Caller, parent: number, name: Name, out: EntryOut): number;
  forget(node: number, count: number): void;
  getattr(caller: Caller, node: number, fh: number /* -1: none */, out: Attr): number;
  /** How long the kernel may trust what getattr or setattr just gave for the node. */
  attrValidMs(node: number, attr: Attr): number;
  setattr(caller: Caller, node: number, change: SetAttrIn, out: Attr): number;
  /** The target, or a negative errno. */
  readlink(caller: Caller, node: number): Name | number;
  mknod(caller: Caller, parent: number, name: Name, mode: number, rdev: number, out: EntryOut): number;
  mkdir(caller: Caller, parent: number, name: Name, mode: number, out: EntryOut): number;
  symlink(caller: Caller, parent: number, name: Name, target: Name, out: EntryOut): number;
  link(caller: Caller, node: number, newParent: number, newName: Name, out: EntryOut): number;
  unlink(caller: Caller, parent: number, name: Name): number;
  rmdir(caller: Caller, parent: number, name: Name): number;
  /** flags: RENAME_NOREPLACE 1, RENAME_EXCHANGE 2, RENAME_WHITEOUT 4. */
  rename(caller: Caller, parent: number, name: Name, newParent: number, newName: Name, flags: number): number;
  open(caller: Caller, node: number, flags: number, out: OpenOut): number;
  create(
    caller: Caller,
    parent: number,
    name: Name,
    flags: number,
    mode: number,
    out: EntryOut,
    open: OpenOut,
  ): number;
  tmpfile(caller: Caller, parent: number, flags: number, mode: number, out: EntryOut, open: OpenOut): number;
  /** Bytes read into `into`, or a negative errno. */
  read(caller: Caller, node: number, fh: number, offset: number, into: Uint8Array): number;
  /** Bytes written, or a negative errno. `killPriv`: clear setuid/setgid and security.capability. */
  write(
    caller: Caller,
    node: number,
    fh: number,
    offset: number,
    from: Uint8Array,
    killPriv: boolean,
  ): number;
  flush(caller: Caller, node: number, fh: number): number;
  release(node: number, fh: number): number;
  fsync(caller: Caller, node: number, fh: number, dataOnly: boolean): number;
  /** ENOSYS: directories need no handles; then readdir and fsyncdir get fh 0, and the kernel does not ask again and keeps listings. */
  opendir(caller: Caller, node: number, out: OpenOut): number;
  readdir(caller: Caller, node: number, fh: number, cookie: number, sink: DirectorySink): number;
  releasedir(node: number, fh: number): number;
  fsyncdir(caller: Caller, node: number, fh: number, dataOnly: boolean): number;
  statfs(caller: Caller, node: number, out: StatfsOut): number;
  getxattr(caller: Caller, node: number, name: Name): Uint8Array | number;
  /** NUL-separated names, each ended by NUL. */
  listxattr(caller: Caller, node: number): Uint8Array | number;
  setxattr(
    caller: Caller,
    node: number,
    name: Name,
    value: Uint8Array,
    flags: number,
    clearSgid: boolean,
  ): number;
  removexattr(caller: Caller, node: number, name: Name): number;
  fallocate(caller: Caller, node: number, fh: number, mode: number, offset: number, length: number): number;
  /** FS_*_FL of a file or directory (lsattr); or a negative errno. */
  fileFlags(caller: Caller, node: number): number;
  setFileFlags(caller: Caller, node: number, flags: number): number;
  /** New offset or a negative errno; whence SEEK_DATA 3, SEEK_HOLE 4. */
  lseek(caller: Caller, node: number, fh: number, offset: number, whence: number): number;
  /** Bytes copied (PENDING allowed: the job's result is the count) or a negative errno. */
  copyFileRange(
    caller: Caller,
    nodeIn: number,
    fhIn: number,
    offsetIn: number,
    nodeOut: number,
    fhOut: number,
    offsetOut: number,
    length: number,
  ): number;
  /** The connection is gone: close everything. */
  destroy(): void;
}

/** A name the kernel may have cached: in the directory of this node id (known to the kernel), this entry. */
export interface StaleName {
  parent: number;
  name: Name;
}

/**
 * A relayer of a VLFS that is served meanwhile: what takes long goes in steps between requests. Between the first step and commit() the server must give the
 * kernel no name with a validity.
 */
export interface RelayerWork {
  /**
   * Goes on until `untilMs` (performance.now()), and ends soon after. A job: to be run first. 'ready': everything that can fail is done, or, after commit(), all of it.
   * Throws StrataError before commit(); then nothing changed and the work is over.
   */
  step(untilMs: number): 'more' | 'ready' | SlowJob;
  /** Once ready: all names in directories known to the kernel that will show something else (also absent ones). */
  names(): StaleName[];
  /** Once ready: node ids of directories that show the same as before, so that their listings stay right. */
  unchanged(): ReadonlySet<number>;
  /** Once ready: the exchange, in one turn. */
  commit(): void;
  /** Before commit(): gives up. */
  abort(): void;
}

/** A revert or reset of a VLFS that is served: between its steps no request of this VLFS may be carried out. */
export interface ChangeWork<T> {
  /** Goes on until `untilMs` (performance.now()), and ends soon after. Throws StrataError; the work is over then. */
  step(untilMs: number): 'more' | { result: T };
}

/**
 * A fresh private layer for an appliance: `from`/{private, whiteouts}, which take the places of its own; these go to `to`/{private, whiteouts}. What is not in `from` any more
 * is in place.
 */
export interface FreshPrivate {
  from: string;
  to: string;
}

/** A file that programs write past the server. */
export interface ChangedFile {
  node: number;
  ino: number;
}

/** A freeze of the private layer of a VLFS that is served meanwhile: nothing that one can see changes, so the kernel is told nothing. */
export interface FreezeWork {
  /** As RelayerWork.step; after commit(): 'ready' when the copies of open files are on the disk as soon as any later change of a name is. */
  step(untilMs: number): 'more' | 'ready' | SlowJob;
  /**
   * Once ready, and while no job changes files: the freeze, in one turn. 'wait': to be stepped until it is ready again. Files: nothing was done, because they
   * changed while they were copied, or must be held first. `held`: nodes whose writers wait. Throws StrataError; then nothing changed. `mapped`: it is done, and exact if
   * the mount's page cache holds no change of these nodes that was not written back.
   */
  commit(held: ReadonlySet<number>): { mapped: number[] } | 'wait' | ChangedFile[];
  /** After commit() and once ready: begins to copy the contents that follow; to be stepped until it is ready again. The frozen layer must not be read before. */
  follow(): void;
  /** Before commit(): gives up. */
  abort(): void;
}

/**
 * What the data plane asks of a VLFS between two requests.
 *
 * Why names and not FUSE_NOTIFY_INC_EPOCH: measured on Linux 6.18, after an epoch the next walk over a mountpoint inside the VLFS
 * (/proc, /dev, a bind mount of a container) detaches that mount, in every namespace. So the server expires exactly the changed names: it answers
 * entries with validity 0, does the steps of beginRelayer(), expires its names, calls commit() in one turn, and expires the last names once more. An
 * unchanged directory must keep its node id over a relayer, or mounts on it are lost.
 */
export interface VlfsControl {
  beginRelayer(stack: StackSpec, privateFiles?: PrivateFile[]): RelayerWork;
  /** Exchanges the stack at once, after everything that can fail. Throws StrataError and changes nothing when it fails. */
  relayer(stack: StackSpec, privateFiles?: PrivateFile[]): void;
  /**
   * `dir`: a frozen layer with an empty private/ and whiteouts/, which is the topmost level of `stack`; it gets those of the VLFS. The rest of the stack is the
   * present one.
   */
  beginFreeze(stack: StackSpec, dir: string): FreezeWork;
  /** Ends with what was reverted; the names that changed are in takeStaleNames. */
  beginRevert(paths: string[]): ChangeWork<string[]>;
  beginReset(keep: string[]): ChangeWork<void>;
  /**
   * Shows another stack, and in the same step, with `fresh`, a fresh private layer; else the stack has a layer that was merged beside (`frozen/ID/adopt.json`), which comes under the
   * private one: BUSY, naming the path, when that has changed what the layer changes too. Repeating what was done already does nothing. The names that changed are in takeStaleNames.
   */
  beginExchange(stack: StackSpec, fresh: FreshPrivate | null): ChangeWork<void>;
  /** Reads anew whether contents are judged before they are opened (`on-open.json` beside the private layer). */
  readScanOnOpen(): void;
  /** Reads the limits of what the appliance may take anew (`quota.json` beside the private layer). */
  readQuota(): void;
  /** Names changed by revert and reset since the last call. */
  takeStaleNames(): StaleName[];
  /** Node ids of directories that were listed since the last call, but for some, which stay for a later one: the kernel may keep their listings. */
  takeListed(but?: ReadonlySet<number>): number[];
  /** Node ids that the kernel should be asked to forget, because this VLFS remembers more than its share. */
  takePrunable(): number[];
  /** Node ids of all files that the kernel may have contents of. */
  knownFiles(): number[];
  /** Work that nobody waits for, or null: to be run once, one after the other. Requests may come to wait for it too. */
  takeBackgroundJob(): SlowJob | null;
  stats(): { openFiles: number };
}

/** 'policy': substitutes and grafts of a policy; its directories give no attributes where another level has the directory. */
export type LevelKind = 'frozen' | 'config' | 'software' | 'policy';

/** One read-only level of a stack. */
export interface LevelSpec {
  kind: LevelKind;
  /** For software: the UnitId `REPO/LAYER VERSION`. For config and frozen: a stable identity such as `config/TEMPLATE` that outlives generations. */
  id: string;
  /** The tree: a unit's filesystem/, or a config or frozen directory in overlayfs-upper form. */
  treeDir: string;
  /** The tree's binary index (software; for config and frozen too once they are written). */
  indexFile: string;
  /** For config and frozen: the whiteout sets that belong to it, laid out like an appliance's whiteouts/, or null. */
  whiteoutsDir: string | null;
  /** What the appliance itself wrote: its policy hides nothing in it. Own levels stand above all others. */
  own?: boolean;
  /** For a frozen level: ids of those that were merged into it. It takes their place only where the appliance itself hides nothing of them. */
  mergedFrom?: readonly string[];
  /** The first rule of the policy that counts in this level (default: 0, all). */
  rulesFrom?: number;
}

/**
 * What a VLFS does not show of what it inherited, which is every level that is not its own. Part of the stack, so that nothing that reads the stack can
 * forget it, and so that a relayer makes it stricter in one step. Present and without rules: only what is marked nonclonable is hidden.
 */
export interface PolicySpec {
  /** Patterns (policy/pattern.ts), in the order in which the line of ancestors added them. */
  rules: string[];
}

/** A resolved stack, top first: frozen, config, then software. Equal keys mean equal stacks; merged directories are shared by key. */
export interface StackSpec {
  key: string;
  levels: LevelSpec[];
  policy?: PolicySpec;
}

/**
 * What a reader of a shared file sees when another program copies it up while it is open: `exact` the new content, as on ext4, because every read goes
 * through the page cache of the mount; `shared` the old content for larger files, which all mounts read through one page cache, the layer's.
 */
export type CacheMode = 'exact' | 'shared';

export interface VlfsSpec {
  /** The appliance's name, for messages. */
  name: string;
  /** overlayfs upper directory of the appliance. */
  privateDir: string;
  /** Whiteout sets: whiteouts/REPO/LAYER_VERSION/path (0:0 character devices); for config levels whiteouts/config/TEMPLATE/path. */
  whiteoutsDir: string;
  stack: StackSpec;
  /** Names a state of the units on the disk: as long as it is the same, no index file of a software level changed. Missing: they are looked at. */
  unitsStamp?: string;
  readOnly: boolean;
  /** Default: shared. */
  cache?: CacheMode;
  /** Where lookups of what the policy hides are noted. */
  denialsFile?: string;
  /** Every copy-up copies the whole file: the private layer is to become a config layer. */
  wholeCopies?: boolean;
}

export interface Differences {
  entries: DiffEntry[];
  /** Paths longer than any program can name: they were not looked at. How many there are, and the first of them; missing: none. */
  beyond?: { count: number; first: string };
}

export interface DiffEntry {
  path: string;
  change: 'added' | 'changed' | 'deleted' | 'metadata';
  /** `REPO/LAYER VERSION` that owns the shared original, or null. */
  layer: string | null;
  /** The layer was updated since the private copy was made, so the copy hides a newer original. */
  base_updated: boolean;
}

/**
 * Why a path is in conflict. `changed`, `added`, `metadata`: both did, and not alike; `deleted-by-child`: the parent changed it, or something below; `deleted-by-parent`: it, or
 * the directory in which it was; `type`: one is a directory, or of another type; `hidden`: the parent has it, and its policy let the child not see it.
 */
export type ConflictKind =
  | 'changed'
  | 'added'
  | 'metadata'
  | 'deleted-by-child'
  | 'deleted-by-parent'
  | 'type'
  | 'hidden';

export interface MergeConflict {
  path: string;
  kind: ConflictKind;
  /** Whose version was taken: the parent's (ours) or the child's (theirs); null: nobody said. */
  taken: 'ours' | 'theirs' | null;
}

/** What to take where child and parent are in conflict. Paths hold for all below; the longest that fits counts. */
export interface MergeChoice {
  prefer: 'ours' | 'theirs' | null;
  ours: string[];
  theirs: string[];
}

/** A file that a relayer must replace in the private layer in the same step (the merged dpkg status). null content: remove. */
export interface PrivateFile {
  path: string;
  content: Uint8Array | null;
}
