/**
 * The format of the private layer is that of overlayfs: the kernel's own overlayfs over the private layer, the whiteout sets and the units shows the
 * tree that the VLFS shows, after random operations. What it cannot express is stated in docs/formats/private-layer.md.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import * as fs from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import { randomRuns } from '../base/random-runs.test-support.ts';
import { writeTreeIndex } from '../layer/index.ts';
import { fgetxattr, flistxattr, fsetxattr, MNT_DETACH, splitXattrList, umount } from '../sys/index.ts';
import type { LevelSpec, VlfsSpec } from './contract.ts';
import { completePrivate } from './delta/outside.ts';
import { isInternal } from './operations/internal-xattrs.ts';
import { OPAQUE, REDIRECTS_XATTR } from './stack/merged-directory.ts';
import { BASE, type Operation, onVlfs, operation, SECOND } from './test-support/operations.test-support.ts';
import { replacedInConfig } from './test-support/replaced-directory.test-support.ts';
import { Client, ErrnoError, type Sandbox, sandboxed, type Tree } from './test-support/vlfs.test-support.ts';

/** The levels for overlayfs, top first: each unit below the whiteouts that hide parts of it. */
function lowerDirs(spec: VlfsSpec): string[] {
  const { levels } = spec.stack;
  const dirs = [spec.privateDir];
  for (const [i, level] of levels.entries()) {
    const sets = [spec.whiteoutsDir, ...levels.slice(0, i).map((upper) => upper.whiteoutsDir)];
    for (const dir of sets) {
      const set = dir === null ? null : join(dir, level.id.replaceAll(' ', '_'));
      if (set !== null && fs.existsSync(set)) dirs.push(set);
    }
    dirs.push(level.treeDir);
  }
  return dirs;
}

/** What `look` finds while overlayfs is mounted over the files of a VLFS. */
function throughOverlayfs<T>(box: Sandbox, spec: VlfsSpec, look: (root: string) => T): T {
  const at = join(box.dir, 'overlayfs');
  fs.mkdirSync(at, { recursive: true });
  const lower = `lowerdir=${lowerDirs(spec).join(':')}`;
  execFileSync('mount', [
    '-t',
    'overlay',
    'overlay',
    '-o',
    `ro,redirect_dir=follow,metacopy=on,${lower}`,
    at,
  ]);
  try {
    return look(at);
  } finally {
    umount(at, MNT_DETACH);
  }
}

type Shown = Record<string, string>;

function pathsBelow(root: string, dir = ''): string[] {
  return fs.readdirSync(join(root, dir), { withFileTypes: true }).flatMap((entry) => {
    const path = join(dir, entry.name);
    return entry.isDirectory() ? [path, ...pathsBelow(root, path)] : [path];
  });
}

function xattrsOf(path: string): string[] {
  const fd = fs.openSync(path, 'r');
  const list = flistxattr(fd);
  const names = typeof list === 'number' ? [] : splitXattrList(list).filter((name) => !isInternal(name));
  const found = names.map((name) => {
    const value = fgetxattr(fd, name);
    return `${name}=${typeof value === 'number' ? value : Buffer.from(value).toString('hex')}`;
  });
  fs.closeSync(fd);
  return found.sort();
}

function hasRedirects(dir: string): boolean {
  const fd = fs.openSync(dir, 'r');
  const found = fgetxattr(fd, REDIRECTS_XATTR);
  fs.closeSync(fd);
  return typeof found !== 'number';
}

function treeBelow(root: string): Shown {
  const shown: Shown = {};
  for (const path of pathsBelow(root).sort()) {
    const at = join(root, path);
    const s = fs.lstatSync(at, { bigint: true });
    const xattrs = s.isFile() || s.isDirectory() ? xattrsOf(at) : [];
    const content = s.isFile()
      ? fs.readFileSync(at, 'latin1')
      : s.isSymbolicLink()
        ? fs.readlinkSync(at, 'latin1')
        : '';
    const times = s.isDirectory() ? '' : s.mtimeNs;
    shown[path] = [s.mode.toString(8), s.uid, s.gid, s.rdev, times, content, ...xattrs].join(' ');
  }
  return shown;
}

/** The same of a VLFS. */
function treeOf(c: Client): Shown {
  const shown: Shown = {};
  for (const path of Object.keys(c.tree()).sort()) {
    const { mode, uid, gid, rdev, mtimeSec, mtimeNsec } = c.stat(path);
    const kind = mode & 0o170000;
    const content = kind === 0o100000 ? c.read(path) : kind === 0o120000 ? c.readlink(path) : '';
    const times = kind === 0o040000 ? '' : BigInt(mtimeSec) * 1_000_000_000n + BigInt(mtimeNsec);
    const xattrs = c
      .listxattr(path)
      .map((name) => `${name}=${Buffer.from(c.getxattr(path, name), 'latin1').toString('hex')}`)
      .sort();
    shown[path] = [mode.toString(8), uid, gid, rdev, times, content, ...xattrs].join(' ');
  }
  return shown;
}

/** On the directories of the sets that are marks themselves, so that one sees where overlayfs shows them. */
const MARK_XATTR = 'user.mark';

/**
 * A directory that was deleted after some directory was renamed (here or in a config level) is an opaque directory in the sets, which overlayfs
 * shows empty. These get an attribute; nothing else may differ.
 */
function tagOpaqueMarks(spec: VlfsSpec): void {
  for (const set of [spec.whiteoutsDir, ...spec.stack.levels.map((level) => level.whiteoutsDir)]) {
    for (const path of set === null ? [] : pathsBelow(set)) {
      const at = join(set!, path);
      if (!fs.lstatSync(at).isDirectory()) continue;
      const fd = fs.openSync(at, 'r');
      if (typeof fgetxattr(fd, OPAQUE) !== 'number') fsetxattr(fd, MARK_XATTR, Buffer.from('y'));
      fs.closeSync(fd);
    }
  }
}

function withoutOpaqueMarks(kernel: Shown, ours: Shown): Shown {
  return Object.fromEntries(
    Object.entries(kernel).filter(([path, what]) => path in ours || !what.includes(` ${MARK_XATTR}=`)),
  );
}

async function play(
  box: Sandbox,
  spec: VlfsSpec,
  operations: readonly Operation[],
  partial: boolean,
): Promise<void> {
  let c = new Client(spec, partial ? { partialBytes: 0 } : {});
  for (const one of operations) {
    if (one.op === 'remount') continue;
    try {
      onVlfs(c, one);
    } catch (error) {
      if (!(error instanceof ErrnoError)) throw error;
    }
  }
  c.close();
  // What has blocks of its own, or another name, has no form in overlayfs.
  await completePrivate(spec.privateDir);
  c = new Client(spec);
  try {
    const ours = treeOf(c);
    tagOpaqueMarks(spec);
    const kernel = throughOverlayfs(box, spec, treeBelow);
    const redirects = [spec.privateDir, ...spec.stack.levels.map((level) => level.treeDir)].some(
      hasRedirects,
    );
    assert.deepEqual(redirects ? withoutOpaqueMarks(kernel, ours) : kernel, ours);
  } finally {
    c.close();
  }
}

/** Every file and directory of the unit has an attribute. */
async function unitWithXattrs(box: Sandbox, name: string, tree: Tree): Promise<LevelSpec> {
  const level = await box.unit(name, '1', tree);
  for (const path of pathsBelow(level.treeDir)) {
    const at = join(level.treeDir, path);
    if (fs.lstatSync(at).isSymbolicLink()) continue;
    const fd = fs.openSync(at, 'r');
    fsetxattr(fd, 'user.note', Buffer.from(path));
    fs.closeSync(fd);
  }
  await writeTreeIndex(level.indexFile, level.treeDir);
  return level;
}

test(
  "the kernel's overlayfs shows the private layer as the VLFS does",
  sandboxed(async (box) => {
    const levels = [await unitWithXattrs(box, 'two', SECOND), await unitWithXattrs(box, 'one', BASE)];
    const template = box.spec('template', levels);
    const t = new Client(template);
    t.unlink('d/a');
    t.write('d/b', 'configured');
    t.rename('e/e', 'd/moved');
    t.unlink('c/a');
    t.close();
    const stacks = [levels, [await box.config('t', template), ...levels]];
    let run = 0;
    await fc.assert(
      fc.asyncProperty(
        fc.array(operation, { minLength: 3, maxLength: 30 }),
        fc.nat(1),
        fc.boolean(),
        async (operations, stack, partial) => {
          await play(box, box.spec(`r${run++}`, stacks[stack]!), operations, partial);
        },
      ),
      {
        ...randomRuns(60),
        // Only the config level renamed a directory.
        examples: [[[{ op: 'rmdir', path: 'c' }], 1, false]],
      },
    );
  }),
);

test(
  'a renamed directory that no redirect leads to the whole of is what the kernel shows',
  sandboxed(async (box) => {
    const { spec } = await replacedInConfig(box);
    let c = new Client(spec, { partialBytes: 0 });
    c.rename('e/deep', 'e/deeper');
    c.rename('e', 'other/e');
    c.write('other/e/own', 'own');
    c.rename('other', 'e');
    c.close();
    await completePrivate(spec.privateDir);
    c = new Client(spec);
    const ours = treeOf(c);
    c.close();
    assert.ok('e/e/deeper/er/large' in ours);
    tagOpaqueMarks(spec);
    assert.deepEqual(withoutOpaqueMarks(throughOverlayfs(box, spec, treeBelow), ours), ours);
  }),
);

test(
  "a metadata-only copy is overlayfs' own; one with blocks of its own is refused, and shown once it is complete",
  sandboxed(async (box) => {
    const content = 'long '.repeat(50_000);
    const level = await box.unit('one', '1', {
      'd/attributes': content,
      'd/blocks': content,
      'd/name': content,
    });
    const spec = box.spec('a', [level]);
    const c = new Client(spec);
    c.chmod('d/attributes', 0o600);
    c.setxattr('d/attributes', 'user.note', 'mine');
    c.chmod('d/name', 0o640);
    c.rename('d/name', 'd/renamed');
    const handle = c.open('d/blocks', 2);
    c.writeHandle(handle, 'new', 5000);
    c.release(handle);
    const ours = treeOf(c);
    c.close();
    throughOverlayfs(box, spec, (root) => {
      const at = join(root, 'd/attributes');
      assert.ok(fs.readFileSync(at, 'latin1') === content);
      assert.equal(fs.statSync(at).mode & 0o7777, 0o600);
      assert.deepEqual(xattrsOf(at), [`user.note=${Buffer.from('mine').toString('hex')}`]);
      for (const name of ['d/blocks', 'd/renamed'])
        assert.throws(() => fs.readFileSync(join(root, name)), { code: 'EIO' }, name);
    });
    await completePrivate(spec.privateDir);
    assert.deepEqual(throughOverlayfs(box, spec, treeBelow), ours);
  }),
);
