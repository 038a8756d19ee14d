/**
 * Makes the config layer of a new generation in a staging directory: the former one with what the distribution's tools change. A change
 * that no script needs to see costs no container, and one that no package database needs to see costs nothing at all.
 */
import { existsSync, mkdirSync, readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { type Progress, parseUnitId, StrataError, type UnitId } from '../../base/index.ts';
import type { StackSpec, VlfsSpec } from '../../vlfs/contract.ts';
import { pruneWhiteouts } from '../../vlfs/index.ts';
import { configureTemplate, databaseFiles, needsContainer, type UnitChange } from '../configure/index.ts';
import type { FleetContext } from '../context.ts';
import { operationId } from '../context.ts';
import { mergeLayerOver } from '../merge-layers/layer-merge.ts';
import { replaceBeneath } from '../merge-layers/replace-beneath.ts';
import { copyTree } from '../merge-layers/tree-copy.ts';
import { isThere, makeDirectory, removeTree } from '../state/files.ts';
import { configLevel, stackOfLevels } from './compose.ts';
import { type ConfigRef, configPaths } from './generations.ts';

export interface ConfigurationInput {
  what: string;
  /** Name for the container. */
  name: string;
  /** Units of the state that `previousStatus` describes. */
  before: UnitId[];
  after: UnitId[];
  explicit: ReadonlySet<string>;
  previousStatus: string | null;
  /** The definition's own former config layer, or null. */
  former: ConfigRef | null;
  /** The new stack without the own config layer. */
  stack: StackSpec;
  /** Receives config/ and whiteouts/. */
  stageDir: string;
  progress: Progress;
}

export type ConfigurationKind = 'none' | 'files' | 'run';

/** What must be done for the change from `before` to `after`. */
export function configurationKind(
  context: FleetContext,
  input: Pick<ConfigurationInput, 'before' | 'after' | 'explicit' | 'previousStatus'>,
): { kind: ConfigurationKind; changes: UnitChange[] } {
  const changes = unitChanges(context, input);
  const moved = changes.filter((change) => change.kind !== 'unchanged');
  const isPlain = !moved.some(
    (change) =>
      isConfigurable(change.dir) || (change.previousDir !== undefined && isConfigurable(change.previousDir)),
  );
  if (moved.length === 0 || (isPlain && input.previousStatus === null)) return { kind: 'none', changes };
  if (needsContainer(changes, input.previousStatus)) return { kind: 'run', changes };
  return { kind: isPlain ? 'none' : 'files', changes };
}

/** A package of a distribution, or a layer with scripts of its own. */
function isConfigurable(dir: string): boolean {
  if (existsSync(join(dir, 'control'))) return true;
  const scripts = join(dir, 'scripts');
  return existsSync(scripts) && readdirSync(scripts).length > 0;
}

function unitChanges(
  context: FleetContext,
  input: Pick<ConfigurationInput, 'before' | 'after' | 'explicit'>,
): UnitChange[] {
  const old = new Map(input.before.map((id) => [parseUnitId(id)!.layer, id]));
  const changes: UnitChange[] = [];
  for (const id of input.after) {
    const { layer } = parseUnitId(id)!;
    const dir = context.repositories.unitDir(id);
    const auto = !input.explicit.has(layer);
    const was = old.get(layer);
    old.delete(layer);
    if (was === undefined) changes.push({ kind: 'new', dir, auto });
    else if (was === id) changes.push({ kind: 'unchanged', dir, auto });
    else changes.push({ kind: 'upgraded', dir, previousDir: context.repositories.unitDir(was), auto });
  }
  for (const id of old.values()) changes.push({ kind: 'removed', dir: context.repositories.unitDir(id) });
  return changes;
}

/** Puts the former config layer (or an empty one) into the staging directory; its files are further names of the former ones. */
export async function stageFormerConfig(
  context: FleetContext,
  former: ConfigRef | null,
  stageDir: string,
): Promise<{ tree: string; whiteouts: string }> {
  const tree = join(stageDir, 'config');
  const whiteouts = join(stageDir, 'whiteouts');
  if (former === null) {
    mkdirSync(tree, { mode: 0o755 });
    mkdirSync(whiteouts, { mode: 0o755 });
    return { tree, whiteouts };
  }
  const from = configPaths(context.paths, former);
  await copyTree(from.tree, tree, { how: 'link' });
  if (isThere(from.whiteouts)) await copyTree(from.whiteouts, whiteouts, { how: 'link' });
  else mkdirSync(whiteouts, { mode: 0o755 });
  return { tree, whiteouts };
}

/**
 * Does what configurationKind found. Returns false when the former config layer still serves. Throws SCRIPT_FAILED with the end of the
 * script's output.
 */
export async function makeConfigLayer(context: FleetContext, input: ConfigurationInput): Promise<boolean> {
  const { kind, changes } = configurationKind(context, input);
  if (kind === 'none') return false;
  if (kind === 'run' && input.former === null) {
    const { tree, whiteouts } = await stageFormerConfig(context, null, input.stageDir);
    await runConfiguration(context, input, changes, { tree, whiteouts, stack: input.stack });
    return true;
  }
  const scratch = kind === 'run' ? await runOverFormer(context, input, changes) : null;
  const { tree, whiteouts } = await stageFormerConfig(context, input.former, input.stageDir);
  pruneWhiteouts(scratchSpec(input, { tree, whiteouts, stack: input.stack }));
  if (scratch === null) {
    for (const { path, content } of databaseFiles(changes, input.previousStatus))
      replaceBeneath(tree, path, Buffer.from(content));
    return true;
  }
  await mergeLayerOver(scratch, { tree, whiteouts }, input.former!.owner, 'link');
  removeTree(scratch.dir);
  return true;
}

/** Where a configuration run writes, and over what. */
interface Scratch {
  tree: string;
  whiteouts: string;
  stack: StackSpec;
}

/**
 * Runs over the former config layer, which is only read, so that the cost is that of what the run changes. Returns where the changes
 * are, in a directory that is to be removed.
 */
async function runOverFormer(
  context: FleetContext,
  input: ConfigurationInput,
  changes: UnitChange[],
): Promise<Scratch & { dir: string }> {
  const dir = join(input.stageDir, 'run');
  const tree = join(dir, 'private');
  const whiteouts = join(dir, 'whiteouts');
  for (const made of [dir, tree, whiteouts]) mkdirSync(made, { mode: 0o755 });
  const former = configLevel(context.paths, input.former!);
  const stack = stackOfLevels([former, ...input.stack.levels]);
  await runConfiguration(context, input, changes, { tree, whiteouts, stack });
  return { tree, whiteouts, stack, dir };
}

function scratchSpec(input: ConfigurationInput, { tree, whiteouts, stack }: Scratch): VlfsSpec {
  return {
    name: input.what,
    privateDir: tree,
    whiteoutsDir: whiteouts,
    stack,
    readOnly: false,
    wholeCopies: true,
  };
}

async function runConfiguration(
  context: FleetContext,
  input: ConfigurationInput,
  changes: UnitChange[],
  scratch: Scratch,
): Promise<void> {
  const id = `.scratch-${operationId()}`;
  const rootfs = join(context.paths.mnt, id);
  makeDirectory(rootfs, 0o700);
  const plane = await context.dataPlane();
  try {
    await plane.mount({ id, mountpoint: rootfs, vlfs: scratchSpec(input, scratch), readOnly: false });
    try {
      const result = await configureTemplate({
        root: context.root,
        rootfs,
        name: input.name,
        changes,
        previousStatus: input.previousStatus,
        progress: input.progress,
      });
      if (!result.ok) throw scriptFailed(input.what, result);
    } finally {
      await plane.unmount(rootfs, { force: true });
    }
  } finally {
    removeTree(rootfs);
    removeTree(join(dirname(scratch.tree), 'work'));
  }
}

function scriptFailed(
  what: string,
  result: { unit: string | null; script: string | null; status: number; output: string },
): StrataError {
  const where = result.unit === null ? 'a script' : `${result.script ?? 'a script'} of layer ${result.unit}`;
  const how = result.status === 124 ? 'did not end in time' : `failed with status ${result.status}`;
  const tail = result.output.trimEnd().split('\n').slice(-20).join('\n');
  return new StrataError(
    'SCRIPT_FAILED',
    `cannot configure ${what}: ${where} ${how}${tail === '' ? '' : `:\n${tail}`}`,
    {
      hint: 'nothing was changed; repair the layer, or leave it out',
      data: { unit: result.unit, script: result.script, status: result.status, output: result.output },
    },
  );
}
