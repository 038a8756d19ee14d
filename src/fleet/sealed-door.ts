/**
 * The sealed door: the kernel's own overlayfs over the levels of a stack, with no daemon in the data path. Between a level and all above
 * it lies the appliance's whiteout set for that level, as a layer of its own. It shows the stack of its mount's time; a new one comes
 * with the next mount.
 */
import { mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { parseUnitId, StrataError } from '../base/index.ts';
import * as sys from '../sys/index.ts';
import type { LevelSpec, VlfsSpec } from '../vlfs/contract.ts';
import { isThere } from './files.ts';
import type { FleetPaths } from './paths.ts';
import { latin1 } from './tree-copy.ts';

/** OVL_MAX_STACK of fs/overlayfs. */
const MAX_LOWERS = 500;
const SOURCE = 'strata-sealed:';

/** Directory of the whiteout set of a level in a whiteouts directory. */
function whiteoutSet(whiteoutsDir: string, level: LevelSpec): string {
  const unit = level.kind === 'software' ? parseUnitId(level.id) : null;
  return unit ? join(whiteoutsDir, unit.repo, `${unit.layer}_${unit.version}`) : join(whiteoutsDir, level.id);
}

/** Lower directories, top first. */
function lowers(spec: VlfsSpec): string[] {
  const dirs: string[] = [];
  const sources = [spec.whiteoutsDir];
  for (const level of spec.stack.levels) {
    for (const whiteouts of sources) {
      const set = whiteoutSet(whiteouts, level);
      if (isThere(set) && readdirSync(set).length > 0) dirs.push(set);
    }
    dirs.push(level.treeDir);
    if (level.whiteoutsDir !== null) sources.push(level.whiteoutsDir);
  }
  return dirs;
}

/** Mounts the VLFS at `dir`. Throws UNSUPPORTED when the kernel cannot. */
export function mountSealed(paths: FleetPaths, spec: VlfsSpec, dir: string): void {
  const dirs = lowers(spec);
  if (dirs.length > MAX_LOWERS) {
    throw new StrataError(
      'UNSUPPORTED',
      `the sealed door takes at most ${MAX_LOWERS} layers, ${spec.name} has ${dirs.length}`,
      {
        hint: 'use the door fuse, which has no such limit',
      },
    );
  }
  const work = join(dirname(spec.privateDir), 'sealed-work');
  mkdirSync(work, { recursive: true, mode: 0o700 });
  const fs = sys.fsopen('overlay');
  if (fs < 0) throw unsupported(fs);
  try {
    const set = (key: string, value: string) => {
      const result = sys.fsconfigString(fs, key, latin1(value));
      if (result < 0) throw unsupported(result, key);
    };
    set('source', sourceOf(paths, spec.name));
    for (const lower of dirs) set('lowerdir+', lower);
    set('redirect_dir', 'on');
    set('index', 'off');
    set('metacopy', 'off');
    if (!spec.readOnly) {
      set('upperdir', spec.privateDir);
      set('workdir', work);
    }
    const created = sys.fsconfigCreate(fs);
    if (created < 0) throw unsupported(created);
    const mount = sys.fsmount(fs, spec.readOnly ? 1 : 0);
    if (mount < 0) throw unsupported(mount);
    try {
      const attached = sys.attachMount(mount, latin1(dir));
      if (attached < 0) throw unsupported(attached);
    } finally {
      sys.close(mount);
    }
  } finally {
    sys.close(fs);
  }
}

function unsupported(result: number, what = 'the mount'): StrataError {
  return new StrataError(
    'UNSUPPORTED',
    `this kernel's overlayfs refuses ${what} of a sealed door (errno ${-result})`,
    {
      hint: 'use the door fuse; the sealed door needs Linux 6.8 or later',
    },
  );
}

function sourceOf(paths: FleetPaths, name: string): string {
  return `${SOURCE}${paths.root}:${name}`;
}

/** Sealed mounts of this state root, from the kernel's own list. */
export function sealedMounts(paths: FleetPaths): { name: string; dir: string }[] {
  const found: { name: string; dir: string }[] = [];
  const prefix = sourceOf(paths, '');
  for (const line of readFileSync('/proc/self/mountinfo', 'latin1').split('\n')) {
    const [left, right] = line.split(' - ');
    if (right === undefined || !right.startsWith('overlay ')) continue;
    const source = unescaped(right.split(' ')[1]!);
    if (!source.startsWith(prefix)) continue;
    found.push({ name: source.slice(prefix.length), dir: unescaped(left!.split(' ')[4]!) });
  }
  return found;
}

function unescaped(field: string): string {
  const bytes = field.replace(/\\([0-7]{3})/g, (_, octal: string) =>
    String.fromCharCode(Number.parseInt(octal, 8)),
  );
  return Buffer.from(bytes, 'latin1').toString('utf8');
}

export function unmountSealed(dir: string, force: boolean): void {
  const result = sys.umount(latin1(dir), (force ? sys.MNT_DETACH : 0) | sys.UMOUNT_NOFOLLOW);
  if (result >= 0) return;
  if (result === -sys.E.BUSY) {
    throw new StrataError('BUSY', `${dir} is in use`, { hint: 'end what uses it, or unmount with --force' });
  }
  throw new StrataError('IO', `cannot unmount ${dir} (errno ${-result})`);
}
