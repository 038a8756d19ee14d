/**
 * The images of merged stacks, kept by what they show: IMAGE_DIR/KEY.erofs, made once and shared by every appliance that shows the same. Appliances
 * with whiteouts have images of their own. An image may be deleted at any time, also while it is mounted: the next mount makes it again.
 */
import { createHash } from 'node:crypto';
import { mkdirSync, readdirSync, rmSync, statSync, utimesSync } from 'node:fs';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { type ErrorCode, nameFromText, StrataError } from '../../base/index.ts';
import {
  AT_FDCWD,
  close,
  DT_CHR,
  DT_DIR,
  fgetxattr,
  newStat,
  readDirectory,
  S_IFCHR,
  S_IFMT,
  statAt,
} from '../../sys/index.ts';
import type { StackSpec } from '../contract.ts';
import { isOpaque } from '../stack/child-directories.ts';
import { OPAQUE } from '../stack/merged-directory.ts';
import { OPENED, openDirectory, WHOLE } from '../whiteouts/whiteout-sets.ts';
import type { DataLayers, ImageJob } from './contract.ts';

/** Raise it when other bytes are made from the same stack. */
const FORMAT = 'strata sealed image 1';
/** Images beyond this number are deleted, the longest unused first. */
const KEEP_IMAGES = 32;

export interface ImageRequest {
  imageDir: string;
  stack: StackSpec;
  whiteoutsDir: string;
  targets: string[];
  layers: DataLayers;
}

const making = new Map<string, Promise<void>>();

/** The image of a merged stack, from the cache or made now in a thread of its own. */
export async function sealedImage(request: ImageRequest): Promise<string> {
  const key = imageKey(request);
  const file = join(request.imageDir, `${key}.erofs`);
  if (touched(file)) return file;
  const { stack, whiteoutsDir, targets, layers } = request;
  const under =
    making.get(file) ?? make(request.imageDir, { stack, whiteoutsDir, targets, layers, uuid: key, file });
  making.set(file, under);
  try {
    await under;
  } finally {
    making.delete(file);
  }
  return file;
}

function touched(file: string): boolean {
  try {
    const now = new Date();
    utimesSync(file, now, now);
    return true;
  } catch {
    return false;
  }
}

const stat = newStat();

/** Names everything that an image's bytes depend on. */
function imageKey({ stack, whiteoutsDir, targets, layers }: ImageRequest): string {
  const { digest, indexFiles } = stackParts(stack, layers);
  const hash = createHash('sha256').update(FORMAT).update(digest);
  let states = '';
  for (const file of indexFiles) {
    const result = statAt(AT_FDCWD, file, stat);
    states += result < 0 ? '\0' : `${stat.ino} ${stat.size} ${stat.mtimeSec}.${stat.mtimeNsec}\0`;
  }
  hash.update(states).update(`${targets.join('\0')}\0\0`, 'latin1');
  const fd = openDirectory(AT_FDCWD, nameFromText(whiteoutsDir));
  if (fd >= 0) {
    addWhiteouts(fd, '', (path) => hash.update(`${path}\0`, 'latin1'));
    close(fd);
  }
  return hash.digest('hex').slice(0, 32);
}

interface StackParts {
  /** What the levels are and where their trees lie. */
  digest: string;
  indexFiles: string[];
}

const partsOf = new WeakMap<DataLayers, StackParts>();

/** Made once for each stack: one has hundreds of levels, and a mount should take a few milliseconds. */
function stackParts(stack: StackSpec, layers: DataLayers): StackParts {
  const before = partsOf.get(layers);
  if (before !== undefined) return before;
  const hash = createHash('sha256').update(`${stack.key}\0${layers.dirs.join('\0')}\0\0`);
  for (const [i, { kind, id, whiteoutsDir }] of stack.levels.entries())
    hash.update(`${kind}\0${id}\0${layers.prefixes[i]}\0${whiteoutsDir}\0`);
  const parts = {
    digest: hash.digest('hex'),
    indexFiles: stack.levels.map(({ indexFile }) => nameFromText(indexFile)),
  };
  partsOf.set(layers, parts);
  return parts;
}

/** Every mark below an open directory, in an order that does not depend on the file system. */
function addWhiteouts(fd: number, path: string, add: (path: string) => void): void {
  const entries = readDirectory(fd);
  if (typeof entries === 'number') return;
  for (const { name, type } of entries.sort((a, b) => (a.name < b.name ? -1 : 1))) {
    const at = `${path}/${name}`;
    if (name === WHOLE && path === '') add(at);
    if (type === DT_CHR || type === 0) {
      const isMark = statAt(fd, name, stat) === 0 && (stat.mode & S_IFMT) === S_IFCHR && stat.rdev === 0;
      if (isMark) add(at);
    }
    if (type !== DT_DIR && type !== 0) continue;
    const sub = openDirectory(fd, name);
    if (sub < 0) continue;
    const opaque = fgetxattr(sub, OPAQUE);
    if (typeof opaque !== 'number' && isOpaque(opaque)) add(`${at}/`);
    if (typeof fgetxattr(sub, OPENED) !== 'number') add(`${at}//`);
    addWhiteouts(sub, at, add);
    close(sub);
  }
}

async function make(imageDir: string, job: ImageJob): Promise<void> {
  mkdirSync(imageDir, { recursive: true, mode: 0o700 });
  dropOldImages(imageDir);
  await new Promise<void>((resolve, reject) => {
    const worker = new Worker(new URL('./image-worker.ts', import.meta.url), {
      workerData: job,
      execArgv: ['--disable-warning=ExperimentalWarning'],
    });
    worker.on('message', (failure: null | { code: ErrorCode; message: string; hint?: string }) => {
      if (failure === null) resolve();
      else reject(new StrataError(failure.code, failure.message, { hint: failure.hint }));
    });
    worker.on('error', reject);
    worker.on('exit', () => reject(new StrataError('INTERNAL', 'the thread that makes an image has ended')));
  });
}

/** Makes room for one more, and removes what a crash left. */
function dropOldImages(imageDir: string): void {
  const images: { file: string; usedMs: number }[] = [];
  for (const name of readdirSync(imageDir)) {
    const file = join(imageDir, name);
    const isAbandoned = name.startsWith('.tmp-') && !making.has(join(imageDir, name.slice(5, 5 + 38)));
    const found = statSync(file, { throwIfNoEntry: false });
    if (found === undefined) continue;
    if (isAbandoned) rmSync(file, { force: true });
    else if (name.endsWith('.erofs')) images.push({ file, usedMs: found.mtimeMs });
  }
  images.sort((a, b) => b.usedMs - a.usedMs);
  for (const { file } of images.slice(KEEP_IMAGES - 1)) rmSync(file, { force: true });
}
