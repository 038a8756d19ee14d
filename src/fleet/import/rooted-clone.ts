/**
 * A clone whose root is a directory of its source: what a clone of the source would show below that path, with the rules of both, is copied (blocks are shared where the
 * file system can) and becomes the base of an appliance of its own. The source's rules go on counting in it; what is excluded was never copied.
 */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { checkObjectName, type Progress, StrataError } from '../../base/index.ts';
import { writeTreeIndex } from '../../layer/index.ts';
import * as sys from '../../sys/index.ts';
import type { VlfsSpec } from '../../vlfs/contract.ts';
import { copyShown, createMatcher, NO_RULE, onOpenFile, readLimits, shownAtPath } from '../../vlfs/index.ts';
import {
  applianceLock,
  applianceRow,
  createAppliances,
  deleteAppliances,
  type Imported,
  refuseExisting,
} from '../appliances/appliances.ts';
import { applianceDirs } from '../appliances/private-files.ts';
import { cloneAppliance } from '../clone/clone.ts';
import { type FleetContext, operationId } from '../context.ts';
import type { Fleet } from '../contract.ts';
import { mountsOf, refuseLingering } from '../mounts/mount-list.ts';
import { policiesOf, type Stricter, stricter, viewOf } from '../policy/apply.ts';
import { EMPTY_POLICY, policyRecord } from '../policy/record.ts';
import { makeDirectory, readTextIfThere, removeTree, syncFileSystemAside } from '../state/files.ts';
import { inState } from '../state/paths.ts';
import { baseLevelAt, discardStage } from './base.ts';
import { importedTemplate } from './import-dir.ts';

type Options = Parameters<Fleet['clone']>[0] & { path: string };
type Cloned = Awaited<ReturnType<Fleet['clone']>>;

export async function cloneRooted(
  context: FleetContext,
  options: Options,
  progress: Progress,
): Promise<Cloned> {
  const started = performance.now();
  const name = checkObjectName('appliance', options.name);
  refuseExisting(context, [name], null);
  const template = await importedTemplate(context, progress);
  const id = operationId();
  makeDirectory(context.paths.imports, 0o700);
  const stage = join(context.paths.imports, `.tmp-${id}`);
  mkdirSync(stage, { mode: 0o700 });
  let policy: Stricter | null = null;
  try {
    policy = await whileQuiet(context, options.source, (quiet) =>
      stageTree(context, options, { id, stage, quiet, progress }),
    );
    const { privateDir } = applianceDirs(context.paths, options.source);
    const limits = readLimits(privateDir);
    const imported: Imported = {
      base: id,
      steps: [
        { do: 'rename', from: inState(context.paths, stage), to: join('imports', id) },
        ...policy.steps,
      ],
      policy: policy.record,
      onOpen: readTextIfThere(onOpenFile(privateDir)),
    };
    const created = await createAppliances(
      context,
      {
        name,
        template,
        ...(options.ttlSeconds === undefined ? {} : { ttlSeconds: options.ttlSeconds }),
        quotaBytes: options.quotaBytes ?? limits?.bytes ?? 'none',
        quotaInodes: options.quotaInodes ?? limits?.inodes ?? 'none',
      },
      progress,
      imported,
    );
    const elapsed_ms = Math.round(performance.now() - started);
    return { ...created.appliances[0]!, source: options.source, layers: 0, elapsed_ms };
  } catch (error) {
    policy?.discard();
    discardStage(context, stage);
    throw error;
  }
}

/** A clone that was made for the copy alone, and is still there after a kill, ends then. */
const COPIED_SECONDS = 24 * 3600;

/**
 * Calls `work` with the name of an appliance that shows what `source` does and does not change: itself, or a clone of it while it is in use. Both are locked
 * meanwhile, so that nobody can mount them.
 */
async function whileQuiet<T>(
  context: FleetContext,
  source: string,
  work: (quiet: string) => Promise<T>,
): Promise<T> {
  const locked = <R>(quiet: string, run: () => Promise<R>): Promise<R> =>
    context.locks.with([applianceLock(source), applianceLock(quiet)], run);
  const direct = await locked(source, async () => {
    applianceRow(context, source);
    if ((await mountsOf(context, source)).mounts.length > 0) return null;
    await refuseLingering(context, [source]);
    return { result: await work(source) };
  });
  if (direct !== null) return direct.result;
  const name = `rooted-${operationId()}`;
  await cloneAppliance(context, { source, name, mode: 'lazy', ttlSeconds: COPIED_SECONDS });
  try {
    return await locked(name, () => work(name));
  } finally {
    await deleteAppliances(context, [name]);
  }
}

/** The tree and its index; the policy that the clone gets. Under the source's lock. */
async function stageTree(
  context: FleetContext,
  options: Options,
  { id, stage, quiet, progress }: { id: string; stage: string; quiet: string; progress: Progress },
): Promise<Stricter> {
  const row = applianceRow(context, options.source);
  const before = { ...(policyRecord(context.paths, row.name) ?? EMPTY_POLICY), own: [], layers: [] };
  const policies = policiesOf(context, options);
  const added = policies.flatMap(({ rules }) => rules.filter(({ path }) => path === undefined));
  const rules = added.map(({ pattern }) => pattern);
  const view = await viewOf(context, stage, quiet, rules);
  const shown = shownAtPath(view, options.path, 0);
  if (shown === null || (shown.mode & sys.S_IFMT) !== sys.S_IFDIR) {
    throw new StrataError('NOT_FOUND', `appliance ${row.name} has no directory ${options.path}`, {
      hint: 'links are not followed, and what a policy excludes is not there',
    });
  }
  // Rules count below the new root too.
  const matcher = createMatcher(rules);
  const without = (below: string, isDirectory: boolean): boolean =>
    below !== '' && matcher.ruleOfPath(`/${below}`, isDirectory) !== NO_RULE;
  progress({ phase: 'import', message: `copying ${options.path} of ${row.name}` });
  await copyShown(view, options.path, { into: stage, name: 'tree', without });
  removeTree(join(stage, 'view'));
  await writeTreeIndex(join(stage, 'index'), join(stage, 'tree'));
  await syncFileSystemAside(stage);
  context.onStep('import: staged');
  const spec: VlfsSpec = {
    name: options.name,
    privateDir: join(stage, 'none', 'private'),
    whiteoutsDir: join(stage, 'none', 'whiteouts'),
    stack: { key: `rooted ${stage}`, levels: [baseLevelAt(stage, id)] },
    readOnly: true,
  };
  mkdirSync(spec.privateDir, { recursive: true, mode: 0o700 });
  try {
    return await stricter(context, { before, spec: () => spec, policies, grafts: options.grafts ?? [] });
  } finally {
    removeTree(join(stage, 'none'));
  }
}
