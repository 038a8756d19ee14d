/**
 * What happens when a state root is opened: unfinished commands are rolled forward, leftovers of commands that did not commit are
 * thrown away, memory and catalog are filled from the files, and mounts that show an older stack are brought up to date.
 */
import { chmodSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { asStrataError, StrataError } from '../../base/index.ts';
import { rowsOnDisk } from '../appliances/appliances.ts';
import { spreadChildren } from '../appliances/placement.ts';
import { settleExchange } from '../clone/merge-exchange.ts';
import { cleanupConfigure } from '../configure/index.ts';
import type { FleetContext } from '../context.ts';
import { settleFollowUp } from '../family/exchange.ts';
import { endStaleRuns } from '../mounts/runs.ts';
import { followTemplate, reconcileMounts } from '../templates/follow.ts';
import { currentGeneration, listGenerations, readDefinition } from '../templates/generations.ts';
import { isThere, makeDirectory, namesIn, readJsonIfThere, removeTree, syncDirectory } from './files.ts';
import type { FollowUp } from './journal.ts';
import { applianceOwner, type FleetPaths, generationDir } from './paths.ts';

const LEFTOVER = /^\.(?:tmp|trash)-/;

/** Directories of a state root. */
export function makeStateRoot(paths: FleetPaths): void {
  const isNew = !isThere(paths.templates);
  for (const dir of [paths.root, paths.machines]) makeDirectory(dir);
  // What packages and appliances brought stands there as it is, set-user-id programs, devices and directories for everybody too: nobody but root may come near.
  for (const dir of [paths.templates, paths.appliances, paths.frozen, join(paths.root, 'repos')]) {
    makeDirectory(dir, 0o700);
    chmodSync(dir, 0o700);
  }
  if (isNew) for (const dir of [paths.root, dirname(paths.root)]) syncDirectory(dir);
  spreadChildren(paths.appliances);
  makeDirectory(paths.mnt, 0o700);
  makeDirectory(join(paths.root, 'run'), 0o700);
}

/** Before anything is read: journal forward, leftovers away. Gives the follow-ups to repeat once memory is filled. */
export async function recoverFiles(
  context: FleetContext,
  notes: string[],
): Promise<{
  followUps: FollowUp[];
  finish: () => void;
  wasUnfinished: boolean;
}> {
  const found = await context.journal.recover();
  for (const family of [context.paths.templates, context.paths.appliances, context.paths.policies])
    for (const name of namesIn(family)) if (LEFTOVER.test(name)) removeLeftover(join(family, name), notes);
  return {
    followUps: found.flatMap(({ record }) => record.followUps),
    finish: () => found.forEach(({ id }) => void context.journal.finish(id)),
    wasUnfinished: found.length > 0,
  };
}

/** What cannot be deleted must not keep the fleet from being opened. */
function removeLeftover(dir: string, notes: string[]): void {
  try {
    removeTree(dir);
  } catch (error) {
    notes.push(`${dir} cannot be deleted: ${asStrataError(error).message}`);
  }
}

/** Templates and own definitions into memory. What cannot be read is named in `notes` and left alone. */
export function loadDefinitions(context: FleetContext, notes: string[]): void {
  for (const name of namesIn(context.paths.templates)) {
    if (name.startsWith('.')) continue;
    try {
      dropUncommitted(context, name);
      const definition = readDefinition(context.paths, name);
      if (definition === null)
        throw new StrataError('BAD_FORMAT', `template ${name} has no current generation`);
      const state = readJsonIfThere(join(context.paths.templates, name, 'state.json'));
      const heldBack = typeof state?.['heldBack'] === 'string' ? state['heldBack'] : null;
      context.templates.set(name, { definition, heldBack });
    } catch (error) {
      notes.push(`template ${name} cannot be used: ${asStrataError(error).message}`);
    }
  }
  for (const { name } of context.catalog.withOwnLayers()) {
    try {
      dropUncommitted(context, applianceOwner(name));
      const definition = readDefinition(context.paths, applianceOwner(name));
      if (definition === null)
        throw new StrataError('BAD_FORMAT', `appliance ${name} has no current generation`);
      context.ownDefinitions.set(name, definition);
    } catch (error) {
      notes.push(`appliance ${name} cannot be used: ${asStrataError(error).message}`);
    }
  }
}

/** Generations above the current one belong to commands that never committed. */
function dropUncommitted(context: FleetContext, owner: string): void {
  const current = currentGeneration(context.paths, owner);
  if (current === 0) return;
  for (const n of listGenerations(context.paths, owner))
    if (n > current) removeTree(generationDir(context.paths, owner, n));
}

/** Fills the catalog from the files. */
export function rebuildCatalog(context: FleetContext, notes: string[] = []): void {
  const rows = [...rowsOnDisk(context, notes)];
  const names = namesIn(context.paths.appliances).filter((name) => !name.startsWith('.'));
  context.catalog.rebuild(rows, rows.length === names.length);
}

/** After memory is filled: what the rolled-forward commands still owe the appliances; then the mounts. */
export async function settleMounts(
  context: FleetContext,
  followUps: FollowUp[],
  notes: string[],
): Promise<void> {
  for (const followUp of followUps) {
    if (followUp.kind === 'merged') await settleExchange(context, followUp);
    else if (followUp.kind === 'exchange') await settleFollowUp(context, followUp, notes);
    else if (context.templates.has(followUp.template))
      await followTemplate(context, followUp.template, followUp.from);
  }
  try {
    await cleanupConfigure(context.root);
  } catch (error) {
    notes.push(`containers of a configuration could not be ended: ${asStrataError(error).message}`);
  }
  try {
    await dropScratchMounts(context);
    await reconcileMounts(context);
    await endStaleRuns(context);
  } catch (error) {
    notes.push(`mounts could not be checked: ${asStrataError(error).message}`);
  }
}

/** Scratch file systems of configurations whose stratad was killed. */
async function dropScratchMounts(context: FleetContext): Promise<void> {
  const plane = await context.runningDataPlane();
  if (plane) {
    for (const { id, mountpoint } of (await plane.status()).mounts)
      if (id.startsWith('.scratch-')) await plane.unmount(mountpoint, { force: true });
  }
  for (const name of namesIn(context.paths.mnt)) {
    const dir = join(context.paths.mnt, name);
    if (name.startsWith('.scratch-') && isThere(dir) && namesIn(dir).length === 0) removeTree(dir);
  }
}
