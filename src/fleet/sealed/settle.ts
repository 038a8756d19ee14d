/**
 * After a sealed mount, whoever ended it: what the kernel wrote into the private layer is absorbed against the stack that was mounted, then the
 * appliance follows to the stack of today. Runs before anything else uses the private layer; a no-op when there was no sealed mount.
 */
import { join } from 'node:path';
import { StrataError } from '../../base/index.ts';
import type { VlfsSpec } from '../../vlfs/contract.ts';
import { absorbSealed, isPrivateInUse, pruneWhiteouts } from '../../vlfs/index.ts';
import {
  applianceDirs,
  databaseChanges,
  mergedDatabases,
  writePrivateFiles,
} from '../appliances/private-files.ts';
import { frozenDir, withFrozen } from '../clone/frozen.ts';
import type { FleetContext } from '../context.ts';
import { policedStack } from '../policy/record.ts';
import { stackOf } from '../templates/compose.ts';
import type { GenerationRecord } from '../templates/generations.ts';
import { sealedMounts } from './door.ts';
import { dropSealedRecord, hasSealedRecord, sealedGeneration, sealedRecord } from './records.ts';

/**
 * `current`: the generation that the appliance has now. Throws BUSY while the sealed mount lives, also where only the kernel knows of it: lazily
 * unmounted, or in another mount namespace. Call it under the appliance's lock.
 */
export function settleSealed(context: FleetContext, name: string, current: GenerationRecord): void {
  if (!hasSealedRecord(context, name)) return;
  refuseSealed(context, name);
  const { privateDir, whiteoutsDir } = applianceDirs(context.paths, name);
  if (isPrivateInUse(privateDir)) {
    throw new StrataError(
      'BUSY',
      `appliance ${name} is still in use through a sealed mount that is not in sight`,
      {
        hint: 'it was unmounted with --force, or lives in another mount namespace: end the processes that use it',
      },
    );
  }
  const record = sealedRecord(context, name);
  const shown = record === null ? null : sealedGeneration(context, record);
  const specOf = (generation: GenerationRecord): VlfsSpec => {
    const layers = stackOf(context.paths, context.repositories, generation);
    const frozen = context.catalog.get(name)?.frozen ?? [];
    const stack = policedStack(context.paths, name, withFrozen(context.paths, layers, frozen));
    return { name, privateDir, whiteoutsDir, stack, readOnly: false };
  };
  // Without its stack the marks stay as the kernel wrote them, which every door understands.
  if (shown !== null) {
    const before = specOf(shown);
    // Also after a read-only mount, for which names in the private layer may have been hidden.
    absorbSealed(before, { onStep: context.onStep, wasComplete: record?.complete === true });
    context.onStep('settle: absorbed');
    const now = specOf(current);
    if (now.stack.key !== before.stack.key) {
      pruneWhiteouts(now);
      const changes = databaseChanges(context.paths, shown, current);
      context.onStep('settle: pruned');
      const frozen = context.catalog.get(name)?.frozen ?? [];
      const trees = [privateDir, ...frozen.map((id) => join(frozenDir(context.paths, id), 'private'))];
      writePrivateFiles(privateDir, mergedDatabases(trees, changes));
    }
  }
  context.onStep('settle: drop the record');
  dropSealedRecord(context, name);
}

/** Throws BUSY when the appliance is mounted by the sealed door. */
export function refuseSealed(context: FleetContext, name: string): void {
  // It is written before the mount. The kernel's list may be long.
  if (!hasSealedRecord(context, name)) return;
  const sealed = sealedMounts(context.paths).find((mount) => mount.name === name);
  if (!sealed) return;
  throw new StrataError('BUSY', `appliance ${name} is mounted at ${sealed.dir} by the sealed door`, {
    hint: `first: strata umount ${sealed.dir}`,
  });
}

/** Appliances whose sealed mount shows an older stack than `current` says, with the reason for people. */
export function behindSealed(
  context: FleetContext,
  current: (name: string) => GenerationRecord | null,
): Map<string, string> {
  const behind = new Map<string, string>();
  for (const { name, dir } of sealedMounts(context.paths)) {
    const record = sealedRecord(context, name);
    const now = current(name);
    if (record === null || now === null || record.generation === now.generation) continue;
    const reason = `mounted at ${dir} by the sealed door, which takes the new stack at its next mount`;
    behind.set(name, reason);
  }
  return behind;
}
