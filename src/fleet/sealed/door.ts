/**
 * The sealed door: the kernel's own overlayfs over one image of the merged stack, with no daemon in the data path. It shows the stack of its
 * mount's time; a new one comes with the next mount. Mounts are found in the kernel's list, so they outlive stratad.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { StrataError } from '../../base/index.ts';
import * as sys from '../../sys/index.ts';
import type { VlfsSpec } from '../../vlfs/contract.ts';
import { completePrivate, mountSealed, prepareSealed, type SealedOptions } from '../../vlfs/index.ts';
import type { FleetContext } from '../context.ts';
import { latin1 } from '../merge-layers/untrusted-tree.ts';
import type { FleetPaths } from '../state/paths.ts';
import type { Definition } from '../templates/generations.ts';
import { writeSealedRecord } from './records.ts';

const SOURCE = 'strata-sealed:';

function sealedOptions(paths: FleetPaths, spec: VlfsSpec): SealedOptions {
  return {
    spec,
    imageDir: join(paths.root, 'sealed'),
    dataRoots: [join(paths.root, 'repos'), paths.templates, paths.frozen, paths.imports],
  };
}

/** Makes the image that a mount needs, when nobody has made it yet. Slow, so it holds no lock. */
export function prepareSealedDoor(paths: FleetPaths, spec: VlfsSpec): Promise<void> {
  return prepareSealed(sealedOptions(paths, spec));
}

/**
 * Mounts the appliance of `spec` at `dir`. Throws UNSUPPORTED when the kernel cannot; what was prepared in the private layer is then still to be
 * settled (settle.ts).
 */
export async function openSealedDoor(
  context: FleetContext,
  spec: VlfsSpec,
  definition: Definition,
  dir: string,
): Promise<void> {
  // Before the record: from then on a mark of a partial file was set through the mount.
  await completePrivate(spec.privateDir);
  context.onStep('sealed: record');
  writeSealedRecord(context, spec.name, definition, spec.readOnly);
  context.onStep('sealed: mount');
  const source = sourceOf(context.paths, spec.name);
  await mountSealed({ ...sealedOptions(context.paths, spec), dir, source, onStep: context.onStep });
  context.onStep('sealed: mounted');
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
