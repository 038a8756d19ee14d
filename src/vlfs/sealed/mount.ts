/**
 * The sealed door: the kernel's overlayfs over one image of the merged stack, with the repositories as data-only layers and the private layer on
 * top. No process of Strata is in its data path. It shows the stack of its mount's time. What must be true: nobody else has the private
 * layer mounted, nobody completes the same frozen files, and `absorbSealed` runs before another door opens it.
 */
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { nameFromText, StrataError } from '../../base/index.ts';
import * as sys from '../../sys/index.ts';
import { completePrivate } from '../delta/outside.ts';
import type { DataLayers, SealedOptions } from './contract.ts';
import { dataLayers } from './data-layers.ts';
import { hideKept } from './hide-kept.ts';
import { sealedImage } from './images.ts';
import { refuseLost } from './refuse-lost.ts';

const DIRECTORY = sys.O_RDONLY | sys.O_DIRECTORY | sys.O_CLOEXEC;
const MOUNT_ATTR_RDONLY = 1;
/** Mounted images that are held for the next appliance of the same stack. */
const HELD_IMAGES = 8;

const held = new Map<string, number>();

/** Where the kernel's overlayfs works, beside the private layer. */
function workDirOf(privateDir: string): string {
  return join(dirname(privateDir), 'sealed-work');
}

/** Makes the image of a stack ahead of its mount, which then takes no longer than any. It is the slow part, so it needs no lock. */
export async function prepareSealed(options: SealedOptions): Promise<void> {
  await imageOf(options, []);
}

async function imageOf(
  options: SealedOptions,
  targets: string[],
): Promise<{ file: string; layers: DataLayers }> {
  const { stack, whiteoutsDir } = options.spec;
  const layers = dataLayers(stack, options.dataRoots);
  const file = await sealedImage({ imageDir: options.imageDir, stack, whiteoutsDir, targets, layers });
  return { file, layers };
}

/**
 * Mounts the VLFS at `dir`; `source` names the mount in the kernel's list. Throws UNSUPPORTED when the kernel or the stack cannot, NOT_FOUND when a
 * layer is gone, NO_SPACE when the image cannot be written.
 */
export async function mountSealed(options: SealedOptions & { dir: string; source: string }): Promise<void> {
  const { spec } = options;
  // Their form is not one that the kernel can complete. What a frozen file shows stays the same.
  await completePrivate(spec.privateDir);
  for (const { kind, treeDir } of spec.stack.levels) if (kind === 'frozen') await completePrivate(treeDir);
  refuseLost(spec, options);
  const { file, layers } = await imageOf(options, hideKept(spec, options));
  options.onStep?.('sealed: image made');
  const opened: number[] = [];
  const open = (path: string): number => {
    const fd = sys.openat(sys.AT_FDCWD, nameFromText(path), DIRECTORY);
    if (fd < 0) throw new StrataError('IO', `cannot open ${path} (${sys.errnoName(-fd)})`);
    opened.push(fd);
    return fd;
  };
  try {
    const image = heldImage(file);
    const overlay = begin('overlay');
    opened.push(overlay);
    set(overlay, 'source', options.source);
    if (spec.readOnly) setFd(overlay, 'lowerdir+', open(spec.privateDir));
    setFd(overlay, 'lowerdir+', image);
    for (const dir of layers.dirs) setFd(overlay, 'datadir+', open(dir));
    set(overlay, 'redirect_dir', 'on');
    set(overlay, 'index', 'off');
    set(overlay, 'metacopy', 'off');
    // Inode numbers that programs can compare over all layers; not every file system below leaves the bits free.
    sys.fsconfigString(overlay, 'xino', 'on');
    if (!spec.readOnly) {
      const work = workDirOf(spec.privateDir);
      mkdirSync(work, { recursive: true, mode: 0o700 });
      setFd(overlay, 'upperdir', open(spec.privateDir));
      setFd(overlay, 'workdir', open(work));
    }
    const mount = create(overlay, spec.readOnly);
    options.onStep?.('sealed: attach');
    opened.push(attach(mount, options.dir));
  } finally {
    for (const fd of opened.reverse()) sys.close(fd);
  }
}

/** The detached mount of an image. All overlays over it share its names, inodes and pages; it lives as long as one of them or this cache. */
function heldImage(file: string): number {
  const known = held.get(file);
  if (known !== undefined) {
    held.delete(file);
    held.set(file, known);
    return known;
  }
  const image = sys.openat(sys.AT_FDCWD, nameFromText(file), sys.O_RDONLY | sys.O_CLOEXEC);
  if (image < 0) throw new StrataError('IO', `cannot open ${file} (${sys.errnoName(-image)})`);
  try {
    const erofs = begin('erofs');
    try {
      set(erofs, 'source', `/proc/self/fd/${image}`);
      const mount = create(erofs, true);
      held.set(file, mount);
      if (held.size > HELD_IMAGES) dropHeld(held.keys().next().value!);
      return mount;
    } finally {
      sys.close(erofs);
    }
  } finally {
    sys.close(image);
  }
}

function dropHeld(file: string): void {
  sys.close(held.get(file)!);
  held.delete(file);
}

/** Gives back the mounted images that nobody uses (tests, and at the end). Mounts over them stay. */
export function releaseSealedImages(): void {
  for (const file of [...held.keys()]) dropHeld(file);
}

function begin(type: string): number {
  const fd = sys.fsopen(type);
  if (fd < 0) throw refusal(type, fd, '');
  return fd;
}

function set(fs: number, key: string, value: string): void {
  const result = sys.fsconfigString(fs, key, nameFromText(value));
  if (result < 0) throw refusal(key, result, sys.fsMessages(fs));
}

function setFd(fs: number, key: string, value: number): void {
  const result = sys.fsconfigFd(fs, key, value);
  if (result < 0) throw refusal(key, result, sys.fsMessages(fs));
}

function create(fs: number, readOnly: boolean): number {
  const created = sys.fsconfigCreate(fs);
  if (created < 0) throw refusal('mount', created, sys.fsMessages(fs));
  const mount = sys.fsmount(fs, readOnly ? MOUNT_ATTR_RDONLY : 0);
  if (mount < 0) throw refusal('mount', mount, sys.fsMessages(fs));
  return mount;
}

function attach(mount: number, dir: string): number {
  const result = sys.attachMount(mount, nameFromText(dir));
  if (result < 0) {
    sys.close(mount);
    throw new StrataError('IO', `cannot mount on ${dir} (${sys.errnoName(-result)})`);
  }
  return mount;
}

function refusal(what: string, result: number, messages: string): StrataError {
  const said = messages === '' ? '' : `: ${messages}`;
  return new StrataError(
    'UNSUPPORTED',
    `the kernel refuses a sealed mount (${what}, ${sys.errnoName(-result)})${said}`,
    { hint: 'use the door fuse; the sealed door needs Linux 6.16 with EROFS and overlayfs' },
  );
}

/**
 * Whether some overlayfs, in any mount namespace and also a lazily unmounted one, still writes to the private layer. The kernel alone knows:
 * it refuses a private layer in use as the layer of a second mount with an index.
 */
export function isPrivateInUse(privateDir: string): boolean {
  const scratch = mkdtempSync(join(dirname(privateDir), '.sealed-probe-'));
  const opened: number[] = [];
  try {
    const open = (path: string): number => {
      const fd = sys.openat(sys.AT_FDCWD, nameFromText(path), DIRECTORY);
      if (fd >= 0) opened.push(fd);
      return fd;
    };
    for (const name of ['upper', 'work']) mkdirSync(join(scratch, name));
    const overlay = begin('overlay');
    opened.push(overlay);
    setFd(overlay, 'lowerdir+', open(privateDir));
    setFd(overlay, 'upperdir', open(join(scratch, 'upper')));
    setFd(overlay, 'workdir', open(join(scratch, 'work')));
    set(overlay, 'index', 'on');
    return sys.fsconfigCreate(overlay) === -sys.E.BUSY;
  } finally {
    for (const fd of opened.reverse()) sys.close(fd);
    rmSync(scratch, { recursive: true, force: true });
  }
}
