/**
 * Another stack, and what belongs to it, in one step, while nothing else may change the VLFS: either with a fresh private layer (a restore), or with a layer that was merged
 * beside and comes under the private one (a merge). All that can fail and all that takes long is done before it is decided. Open files keep what they have.
 */
import { rmSync, writeFileSync } from 'node:fs';
import { StrataError } from '../../base/index.ts';
import { detachGone, openPrivateAnew } from '../changes/reset.ts';
import type { FreshPrivate, StackSpec, StaleName } from '../contract.ts';
import { attributesMoved, type Core, step } from '../core.ts';
import { readBases } from '../delta/partial-form.ts';
import { systemFailure } from '../failure.ts';
import { holdOpenContent } from '../nodes/handles.ts';
import { isLeaving } from '../nodes/opens-on-demand.ts';
import { addEveryName, listNames, type Names } from '../nodes/stale-names.ts';
import { refresh } from '../operations/lookup.ts';
import { revokeDenied } from '../policy/enforce.ts';
import { dropAllParked } from '../private-layer/parked-files.ts';
import { workFd } from '../private-layer/work-dir.ts';
import { recount } from '../quota/quota.ts';
import { closeStack, hasFrozenLayers, openStackSteps, type Stack } from '../stack/stack.ts';
import type { Steps } from '../steps.ts';
import { loadAllHidden } from '../whiteouts/whiteout-sets.ts';
import { type Adoption, layerToAdopt, prepareAdoption } from './adopt.ts';
import { adoptionNote, carryOut } from './carry-out.ts';
import { freshNote, isPlaced, placeFresh } from './fresh-private.ts';

/**
 * Gives the names that the kernel must look up again. Throws before the decision, never after; BUSY, naming the path, when the private layer has changed what a merged layer
 * changes too. Repeating what was done already does nothing.
 */
export function* exchange(core: Core, spec: StackSpec, fresh: FreshPrivate | null): Steps<StaleName[]> {
  const names: Names = new Map();
  const next = yield* openStackSteps(spec);
  let adoption: Adoption | null = null;
  let isDecided = false;
  try {
    if (fresh === null) {
      const layer = layerToAdopt(core, next);
      if (layer === null) return [];
      adoption = yield* prepareAdoption(core, layer);
    } else if (isPlaced(fresh)) return [];
    yield* dropAllParked(core);
    yield* addEveryName(core, names);
    if (core.noOpen) {
      const stay = new Set(next.units);
      yield* core.demand!.keepAll((node) => node.priv);
      core.leaving = yield* core.demand!.keepAll((node) => isLeaving(node, stay), true);
    }
    yield* holdOpenContent(core);
    note(core, fresh, adoption);
    step(core, 'exchange');
    core.ledger?.decide();
    isDecided = true;
    step(core, 'exchange: decided');
  } finally {
    if (!isDecided) {
      closeStack(next);
      forgetNotes(core);
    }
  }
  if (fresh !== null) {
    placeFresh(core, fresh, (what) => step(core, what));
    openPrivateAnew(core);
    core.bases = readBases(core.rootFd, core.privateDir);
    core.hasPartials ||= core.bases.size > 0;
  }
  showStack(core, next);
  if (adoption !== null) carryOut(core, adoption);
  if (fresh !== null) yield* detachGone(core);
  core.demand?.relax();
  forgetNotes(core);
  refresh(core, core.root);
  attributesMoved(core, core.root);
  recount(core);
  yield* addEveryName(core, names);
  return yield* listNames(names);
}

/** For a process that takes over. */
function note(core: Core, fresh: FreshPrivate | null, adoption: Adoption | null): void {
  if (core.ledger === null) return;
  const work = workFd(core);
  if (work < 0) throw systemFailure(work, 'open the work directory');
  try {
    if (fresh !== null) writeFileSync(freshNote(core.workDir), JSON.stringify(fresh));
    if (adoption !== null) writeFileSync(adoptionNote(core.workDir), JSON.stringify(adoption));
  } catch (error) {
    throw new StrataError('IO', `${core.workDir} cannot be written: ${(error as Error).message}`);
  }
}

function forgetNotes(core: Core): void {
  if (core.ledger === null) return;
  for (const file of [freshNote(core.workDir), adoptionNote(core.workDir)]) rmSync(file, { force: true });
}

/** As a relayer does it, but that marks of levels that come hide something in levels that stay. */
function showStack(core: Core, next: Stack): void {
  const previous = core.stack;
  core.stack = next;
  core.hidden = loadAllHidden(core.whiteoutsDir, next);
  core.hasFrozen = hasFrozenLayers(next);
  core.moved = null;
  core.generation++;
  if (previous.policy !== next.policy) revokeDenied(core);
  closeStack(previous);
}
