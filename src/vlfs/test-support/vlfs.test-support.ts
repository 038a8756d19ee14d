/**
 * A sandbox for tests: layers made of file trees, and a client that drives VfsOperations by path as a kernel would (lookups, forgets, jobs
 * of the blocking pool run at once, ESTALE answered by one more walk).
 */
import {
  chmodSync,
  copyFileSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import type { Name } from '../../base/index.ts';
import { writeTreeIndex } from '../../layer/index.ts';
import { E, fdatasync, fsync, ftruncate, pread, pwrite, writeOut } from '../../sys/index.ts';
import {
  type Attr,
  type Caller,
  type DirectorySink,
  type EntryOut,
  type LevelSpec,
  type OpenOut,
  PENDING,
  type SetAttrIn,
  type SlowJob,
  type StackSpec,
  type VlfsSpec,
} from '../contract.ts';
import { newAttr } from '../nodes/attributes.ts';
import { openVlfs, type Vlfs, type VlfsOptions } from '../vlfs.ts';

/** A tree: text is a file's content, { link } a symlink, { hard } another path of the same tree, { mode } changes permissions, null a directory. */
export type Tree = Record<
  string,
  string | null | { link: string } | { hard: string } | { text: string; mode: number }
>;

export interface Sandbox {
  dir: string;
  /** Makes unit `main/NAME VERSION`. */
  unit(name: string, version: string, tree: Tree): Promise<LevelSpec>;
  /** A config level from an appliance's private directory. */
  config(template: string, spec: VlfsSpec): Promise<LevelSpec>;
  spec(name: string, levels: LevelSpec[]): VlfsSpec;
  remove(): void;
}

export function makeSandbox(): Sandbox {
  const dir = mkdtempSync(join(tmpdir(), 'strata-vlfs-'));
  let configs = 0;
  return {
    dir,
    async unit(name, version, tree) {
      const unitDir = join(dir, 'repo', `${name}_${version}`);
      const treeDir = join(unitDir, 'filesystem');
      mkdirSync(treeDir, { recursive: true });
      writeTree(treeDir, tree);
      const indexFile = join(unitDir, 'index');
      await writeTreeIndex(indexFile, treeDir);
      return { kind: 'software', id: `main/${name} ${version}`, treeDir, indexFile, whiteoutsDir: null };
    },
    async config(template, spec) {
      const at = join(dir, 'configs', `${configs++}`);
      mkdirSync(at, { recursive: true });
      const indexFile = join(at, 'index');
      await writeTreeIndex(indexFile, spec.privateDir, { overlay: true });
      return {
        kind: 'config',
        id: `config/${template}`,
        treeDir: spec.privateDir,
        indexFile,
        whiteoutsDir: spec.whiteoutsDir,
      };
    },
    spec(name, levels) {
      const at = join(dir, 'appliances', name);
      mkdirSync(join(at, 'private'), { recursive: true });
      mkdirSync(join(at, 'whiteouts'), { recursive: true });
      return {
        name,
        privateDir: join(at, 'private'),
        whiteoutsDir: join(at, 'whiteouts'),
        stack: stackOf(levels),
        readOnly: false,
      };
    },
    remove: () => rmSync(dir, { recursive: true, force: true }),
  };
}

/** A test's body with a sandbox, which is removed afterwards. */
export function sandboxed(body: (box: Sandbox) => Promise<void>): () => Promise<void> {
  return async () => {
    const box = makeSandbox();
    try {
      await body(box);
    } finally {
      box.remove();
    }
  };
}

export function stackOf(levels: LevelSpec[]): StackSpec {
  return { key: levels.map((level) => `${level.id}@${level.treeDir}@${level.indexFile}`).join('\n'), levels };
}

function writeTree(root: string, tree: Tree): void {
  const old = new Date(1_600_000_000_000);
  for (const [path, what] of Object.entries(tree)) {
    const at = join(root, path);
    mkdirSync(dirname(at), { recursive: true });
    if (what === null) mkdirSync(at, { recursive: true });
    else if (typeof what === 'string') writeFileSync(at, what);
    else if ('link' in what) symlinkSync(what.link, at);
    else if ('hard' in what) linkSync(join(root, what.hard), at);
    else {
      writeFileSync(at, what.text);
      chmodSync(at, what.mode);
    }
    if (typeof what === 'string' || (what !== null && 'text' in what)) utimesSync(at, old, old);
  }
}

export { copyFileSync, statSync };

export class ErrnoError extends Error {
  readonly errno: number;
  constructor(errno: number, what: string) {
    super(`${Object.entries(E).find(([, value]) => value === -errno)?.[0] ?? errno} in ${what}`);
    this.errno = errno;
  }
}

export const newEntry = (): EntryOut => ({
  nodeId: 0,
  generation: 0,
  attr: newAttr(),
  entryValidMs: 0,
  attrValidMs: 0,
});
export const newOpen = (): OpenOut => ({
  fh: -1,
  backingFd: -1,
  backingReadOnly: true,
  directIo: false,
  keepCache: false,
  keepsBacking: false,
});
const newChange = (): SetAttrIn => ({
  valid: 0,
  fh: -1,
  size: 0,
  atimeSec: 0,
  atimeNsec: 0,
  mtimeSec: 0,
  mtimeNsec: 0,
  ctimeSec: 0,
  ctimeNsec: 0,
  mode: 0,
  uid: 0,
  gid: 0,
});

/** Runs a job as the blocking pool does: the count, or 0, or a negative errno. */
export function runJob(job: SlowJob): number {
  if (job.kind === 'steps') {
    for (;;) {
      const result = job.advance(0);
      if (result !== null) return result;
    }
  }
  if (job.kind === 'truncate') {
    const result = ftruncate(job.fd, job.sizeBytes);
    job.done?.(result);
    return result;
  }
  if (job.kind === 'fsync') {
    const result = job.dataOnly ? fdatasync(job.fd) : fsync(job.fd);
    job.done?.(result);
    return result;
  }
  if (job.kind === 'follow') throw new Error('it waits for its copy');
  if (job.kind === 'write-out') {
    job.done(writeOut(job.fds));
    return 0;
  }
  if (job.kind === 'fill') {
    for (let i = 0; i < job.pieces.length; i += 2) {
      const piece = Buffer.alloc(job.pieces[i + 1]!);
      pread(job.fromFd, piece, piece.length, job.pieces[i]!);
      pwrite(job.toFd, piece, piece.length, job.pieces[i]!);
    }
    job.done(0);
    return 0;
  }
  if (job.kind === 'copy-data' || job.kind === 'copy-range') {
    const fromOffset = job.kind === 'copy-range' ? job.fromOffset : 0;
    const toOffset = job.kind === 'copy-range' ? job.toOffset : 0;
    const buffer = Buffer.alloc(1 << 20);
    let at = 0;
    while (at < job.sizeBytes) {
      const got = pread(job.fromFd, buffer, Math.min(buffer.length, job.sizeBytes - at), fromOffset + at);
      if (got <= 0) break;
      pwrite(job.toFd, buffer, got, toOffset + at);
      at += got;
    }
    if (job.kind === 'copy-data') job.done?.(0);
    return job.kind === 'copy-data' ? 0 : at;
  }
  return 0;
}

/** A kernel and a libc in miniature. Paths are absolute or relative to the root, latin1. Errors are thrown as ErrnoError. */
export class Client {
  readonly fs: Vlfs;
  readonly caller: Caller = { uid: 0, gid: 0, pid: 1, umask: 0o022, job: null };
  readonly faults: unknown[] = [];

  constructor(spec: VlfsSpec, options: VlfsOptions & { passthrough?: boolean } = {}) {
    this.fs = openVlfs(spec, {
      background: false,
      cachedBytes: 0,
      ...options,
      onFault: (_, error) => this.faults.push(error),
    });
    this.fs.init({
      passthrough: options.passthrough ?? false,
      killPriv: true,
      posixAcl: true,
      dontMask: true,
      noOpen: false,
    });
  }

  close(): void {
    this.fs.destroy();
  }

  /** Runs an operation to its end. */
  run(operation: () => number): number {
    for (let tries = 0; tries < 10; tries++) {
      const result = operation();
      if (result !== PENDING) return result;
      const { job } = this.caller;
      this.caller.job = null;
      const done = runJob(job!);
      if (job!.then === 'reply') return done;
    }
    throw new Error('an operation never ends');
  }

  #check(result: number, what: string): number {
    if (result < 0) throw new ErrnoError(result, what);
    return result;
  }

  /** The node at a path; each component counts a lookup. Symlinks are not followed. */
  walk(path: string): { id: number; attr: Attr } {
    const entry = newEntry();
    let id = 1;
    this.#check(
      this.run(() => this.fs.getattr(this.caller, 1, -1, entry.attr)),
      path,
    );
    for (const name of path.split('/').filter(Boolean)) {
      const parent = id;
      this.#check(
        this.run(() => this.fs.lookup(this.caller, parent, name as Name, entry)),
        path,
      );
      if (entry.nodeId === 0) throw new ErrnoError(-E.NOENT, path);
      id = entry.nodeId;
    }
    return { id, attr: { ...entry.attr } };
  }

  #parent(path: string): { id: number; name: Name } {
    const parts = path.split('/').filter(Boolean);
    const name = parts.pop()! as Name;
    const { id, attr } = this.walk(parts.join('/'));
    if ((attr.mode & 0o170000) !== 0o040000) throw new ErrnoError(-E.NOTDIR, path);
    return { id, name };
  }

  /** Walks and does; once more after ESTALE, as the VFS does. */
  #at(path: string, use: (id: number) => number): number {
    let result = 0;
    for (let tries = 0; tries < 3; tries++) {
      const { id } = this.walk(path);
      result = this.run(() => use(id));
      if (result !== -E.STALE) break;
    }
    return this.#check(result, path);
  }

  exists(path: string): boolean {
    try {
      this.walk(path);
      return true;
    } catch (error) {
      if ((error as ErrnoError).errno === -E.NOENT) return false;
      throw error;
    }
  }

  stat(path: string): Attr {
    const { id } = this.walk(path);
    const attr = newAttr();
    this.#check(
      this.run(() => this.fs.getattr(this.caller, id, -1, attr)),
      path,
    );
    return attr;
  }

  open(path: string, flags: number): { id: number; fh: number; out: OpenOut } {
    const out = newOpen();
    let node = 0;
    this.#at(path, (id) => {
      node = id;
      return this.fs.open(this.caller, id, flags, out);
    });
    return { id: node, fh: out.fh, out };
  }

  release(handle: { id: number; fh: number }): void {
    this.fs.release(handle.id, handle.fh);
  }

  readHandle(handle: { id: number; fh: number }, size = 1 << 20): string {
    const buffer = Buffer.alloc(size);
    const got = this.#check(this.fs.read(this.caller, handle.id, handle.fh, 0, buffer), 'read');
    return buffer.latin1Slice(0, got);
  }

  writeHandle(handle: { id: number; fh: number }, text: string, offset = 0, killPriv = false): number {
    return this.#check(
      this.fs.write(this.caller, handle.id, handle.fh, offset, Buffer.from(text, 'latin1'), killPriv),
      'write',
    );
  }

  read(path: string): string {
    const handle = this.open(path, 0);
    try {
      return this.readHandle(handle);
    } finally {
      this.release(handle);
    }
  }

  /** open(O_WRONLY|O_CREAT|O_TRUNC), write, close. */
  write(path: string, text: string, mode = 0o666): void {
    const handle = this.exists(path) ? this.open(path, 0o1001) : this.create(path, mode);
    this.writeHandle(handle, text);
    this.release(handle);
  }

  append(path: string, text: string): void {
    const handle = this.open(path, 0o2001);
    const attr = this.stat(path);
    this.writeHandle(handle, text, attr.size);
    this.release(handle);
  }

  create(path: string, mode = 0o666): { id: number; fh: number; out: OpenOut } {
    const { id, name } = this.#parent(path);
    const entry = newEntry();
    const out = newOpen();
    this.#check(
      this.run(() => this.fs.create(this.caller, id, name, 0o302, mode, entry, out)),
      path,
    );
    return { id: entry.nodeId, fh: out.fh, out };
  }

  mkdir(path: string, mode = 0o777): void {
    const { id, name } = this.#parent(path);
    this.#check(
      this.run(() => this.fs.mkdir(this.caller, id, name, mode, newEntry())),
      path,
    );
  }

  mknod(path: string, mode: number, rdev = 0): void {
    const { id, name } = this.#parent(path);
    this.#check(
      this.run(() => this.fs.mknod(this.caller, id, name, mode, rdev, newEntry())),
      path,
    );
  }

  symlink(target: string, path: string): void {
    const { id, name } = this.#parent(path);
    this.#check(
      this.run(() => this.fs.symlink(this.caller, id, name, target as Name, newEntry())),
      path,
    );
  }

  readlink(path: string): string {
    const result = this.fs.readlink(this.caller, this.walk(path).id);
    if (typeof result === 'number') throw new ErrnoError(result, path);
    return result;
  }

  link(from: string, to: string): void {
    this.walk(from);
    const { id, name } = this.#parent(to);
    this.#at(from, (node) => this.fs.link(this.caller, node, id, name, newEntry()));
  }

  unlink(path: string): void {
    const { id, name } = this.#parent(path);
    this.#check(
      this.run(() => this.fs.unlink(this.caller, id, name)),
      path,
    );
  }

  rmdir(path: string): void {
    const { id, name } = this.#parent(path);
    this.#check(
      this.run(() => this.fs.rmdir(this.caller, id, name)),
      path,
    );
  }

  rename(from: string, to: string, flags = 0): void {
    const source = this.#parent(from);
    const target = this.#parent(to);
    this.#check(
      this.run(() => this.fs.rename(this.caller, source.id, source.name, target.id, target.name, flags)),
      `${from} -> ${to}`,
    );
  }

  setattr(path: string, change: Partial<SetAttrIn>): Attr {
    const attr = newAttr();
    this.#at(path, (id) => this.fs.setattr(this.caller, id, { ...newChange(), ...change }, attr));
    return attr;
  }

  chmod(path: string, mode: number): void {
    this.setattr(path, { valid: 1, mode });
  }

  truncate(path: string, size: number): void {
    this.setattr(path, { valid: 8, size });
  }

  getxattr(path: string, name: string): string {
    const value = this.fs.getxattr(this.caller, this.walk(path).id, name as Name);
    if (typeof value === 'number') throw new ErrnoError(value, path);
    return Buffer.from(value).toString('latin1');
  }

  listxattr(path: string): string[] {
    const value = this.fs.listxattr(this.caller, this.walk(path).id);
    if (typeof value === 'number') throw new ErrnoError(value, path);
    return Buffer.from(value).toString('latin1').split('\0').filter(Boolean);
  }

  setxattr(path: string, name: string, value: string | Uint8Array, flags = 0): void {
    const bytes = typeof value === 'string' ? Buffer.from(value, 'latin1') : value;
    this.#at(path, (id) => this.fs.setxattr(this.caller, id, name as Name, bytes, flags, false));
  }

  /** Names in a directory without '.' and '..', sorted. `pageSize`: entries that fit into one reply. */
  readdir(path: string, options: { plus?: boolean; pageSize?: number } = {}): string[] {
    return this.entries(path, options)
      .map(({ name }) => name)
      .filter((name) => name !== '.' && name !== '..')
      .sort();
  }

  /** The entries of a directory as they come, with d_ino (st_ino for plus). */
  entries(
    path: string,
    options: { plus?: boolean; pageSize?: number } = {},
  ): { name: string; ino: number }[] {
    const { id } = this.walk(path);
    const out = newOpen();
    const opened = this.fs.opendir(this.caller, id, out);
    if (opened !== -E.NOSYS) this.#check(opened, path);
    const found: { name: string; ino: number }[] = [];
    let cookie = 0;
    for (;;) {
      let room = options.pageSize ?? 1000;
      const before = cookie;
      const sink: DirectorySink = {
        plus: options.plus ?? false,
        add(name, ino, _type, next) {
          if (room === 0) return false;
          room--;
          found.push({ name, ino });
          cookie = next;
          return true;
        },
        hasRoomFor: () => room > 0,
        addPlus(name, next, _type, entry) {
          room--;
          found.push({ name, ino: entry.attr.ino });
          cookie = next;
        },
      };
      this.#check(
        this.run(() => this.fs.readdir(this.caller, id, out.fh, cookie, sink)),
        path,
      );
      if (cookie === before) break;
    }
    this.fs.releasedir(id, out.fh);
    return found;
  }

  /** Every path with what it is: for comparing whole trees. */
  tree(path = ''): Record<string, string> {
    const result: Record<string, string> = {};
    for (const name of this.readdir(path)) {
      const at = path === '' ? name : `${path}/${name}`;
      const kind = this.stat(at).mode & 0o170000;
      if (kind === 0o040000) {
        result[at] = 'dir';
        Object.assign(result, this.tree(at));
      } else if (kind === 0o120000) result[at] = `-> ${this.readlink(at)}`;
      else if (kind === 0o100000) result[at] = `file ${this.read(at)}`;
      else result[at] = `special ${kind.toString(8)}`;
    }
    return result;
  }
}
