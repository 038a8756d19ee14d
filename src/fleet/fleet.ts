/** The fleet as one object: opens a state root, recovers it, and offers every command of contract.ts. */
import { resolve } from 'node:path';
import { asStrataError, noProgress } from '../base/index.ts';
import { createAppliances } from './appliances/appliances.ts';
import { openCatalog } from './appliances/catalog.ts';
import { diffAppliance, explainWhy, resetAppliance, revertPaths } from './appliances/changes.ts';
import { listAppliances, showAppliance } from './appliances/show.ts';
import { cloneAppliance } from './clone/clone.ts';
import { finishAllFrozen } from './clone/finish-frozen.ts';
import { unusedFrozen } from './clone/frozen.ts';
import { mergeAfterClone, resumeMerges, stopMerges } from './clone/merge.ts';
import { dropLeftFrozen } from './clone/trash.ts';
import { dataPlaneAccess, type FleetContext, unitsInUse } from './context.ts';
import type { Fleet, FleetOptions } from './contract.ts';
import { mergeAppliances } from './family/merge.ts';
import { promoteAppliance } from './family/promote.ts';
import { deleteAll, listSnapshots, restoreSnapshot, takeSnapshot } from './family/snapshots.ts';
import { familyTree } from './family/tree.ts';
import { expireAppliances, setTtl } from './family/ttl.ts';
import { checkFleet } from './fsck/fsck.ts';
import { collectGarbage } from './gc/gc.ts';
import { dropLeftBases } from './import/base.ts';
import { importDirectory } from './import/import-dir.ts';
import { cloneRooted } from './import/rooted-clone.ts';
import { allMounts } from './mounts/mount-list.ts';
import { mountAppliance, unmountTarget } from './mounts/mounts.ts';
import { endStaleRuns, finishRun, prepareRun } from './mounts/runs.ts';
import { applyPolicy, policyState } from './policy/apply.ts';
import { policyLog } from './policy/denials.ts';
import { markPaths } from './policy/mark.ts';
import { createPolicy, deletePolicy, listPolicies, showPolicy, warmPolicies } from './policy/policies.ts';
import { quotaOf, setQuota } from './quota/quotas.ts';
import { openRepositories } from './repositories.ts';
import { listOnOpen, setScanOnOpen } from './scan/on-open.ts';
import { listQuarantine, releaseQuarantine, resumeQuarantine, scanFleet } from './scan/scan.ts';
import { openJournal } from './state/journal.ts';
import { COMMIT, createLocks } from './state/locks.ts';
import { fleetPaths } from './state/paths.ts';
import {
  loadDefinitions,
  makeStateRoot,
  rebuildCatalog,
  recoverFiles,
  settleMounts,
} from './state/recovery.ts';
import { templateInfo } from './templates/definitions.ts';
import { freezeTemplate } from './templates/freeze.ts';
import {
  addRepo,
  buildLayer,
  importLayers,
  indexRepo,
  listLayers,
  listRepos,
  removeLayer,
  removeRepo,
  showLayer,
  syncRepo,
  verifyLayers,
} from './templates/layers.ts';
import { rollbackTemplate } from './templates/rollback.ts';
import {
  addLayers,
  createTemplate,
  deleteTemplate,
  holdLayer,
  listTemplates,
  removeLayers,
} from './templates/templates.ts';
import { updateFleet } from './templates/update.ts';

/** For tests: `onStep` is called at every boundary between two changes on disk. */
export interface FleetInternals {
  onStep?: (name: string) => void;
}

/** After the start, so that the command that started the daemon is answered first. */
const FIRST_WARM_MS = 300;

/** Opens (and, where a process was killed, recovers) a state root. Makes it when there is none. */
export async function openFleetWith(options: FleetOptions, internals: FleetInternals = {}): Promise<Fleet> {
  const root = resolve(options.root);
  const paths = fleetPaths(root);
  makeStateRoot(paths);
  const onStep = internals.onStep ?? (() => {});
  const context: FleetContext = {
    root,
    paths,
    locks: createLocks(),
    journal: openJournal(root, onStep),
    catalog: openCatalog(root),
    repositories: openRepositories(root),
    templates: new Map(),
    ownDefinitions: new Map(),
    ...dataPlaneAccess(root, options.dataPlane),
    background: options.background ?? ((_, work) => void work(noProgress).catch(() => {})),
    onStep,
  };
  const notes: string[] = [];
  const { followUps, finish, wasUnfinished } = await recoverFiles(context, notes);
  if (wasUnfinished || !context.catalog.isFresh()) rebuildCatalog(context, notes);
  loadDefinitions(context, notes);
  await settleMounts(context, followUps, notes);
  finish();
  await finishAllFrozen(context, notes);
  resumeQuarantine(context, notes);
  // What nobody lists is deleted: only the files may say so.
  if (unusedFrozen(context).length > 0) rebuildCatalog(context, notes);
  await dropLeftFrozen(context);
  await dropLeftBases(context);
  resumeMerges(context);
  if (context.templates.size > 0) {
    context.repositories.warm(() => unitsInUse(context), FIRST_WARM_MS);
    setTimeout(() => warmPolicies(context), FIRST_WARM_MS).unref();
  }
  return fleetOf(context, notes);
}

async function statusOf(context: FleetContext, notes: string[]): ReturnType<Fleet['status']> {
  const base = {
    appliances: context.catalog.count(),
    templates: context.templates.size,
    root: context.root,
  };
  try {
    const plane = await context.dataPlane();
    const status = await plane.status();
    const kernel: string[] = [];
    // fuseMinor 0: no connection yet, so nobody asked the kernel.
    if (status.kernel.fuseMinor > 0 && !status.kernel.passthrough) {
      kernel.push('this kernel has no FUSE passthrough (Linux 6.9): file data goes through strata-fs');
    }
    return {
      ...base,
      mounts: (await allMounts(context)).length,
      data_plane: { pid: status.pid, memory_bytes: status.memoryBytes },
      notes: [...kernel, ...notes],
    };
  } catch (error) {
    return {
      ...base,
      mounts: 0,
      data_plane: { pid: null, memory_bytes: 0 },
      notes: [`strata-fs does not answer: ${asStrataError(error).message}`, ...notes],
    };
  }
}

function fleetOf(context: FleetContext, notes: string[]): Fleet {
  return {
    repoAdd: (o, progress) => addRepo(context, o, progress),
    repoList: () => listRepos(context),
    repoSync: (name, progress) => syncRepo(context, name, progress),
    repoRemove: (name) => removeRepo(context, name),
    repoIndex: (name, progress) => indexRepo(context, name, progress),
    layerImport: (o, progress) => importLayers(context, o, progress),
    layerBuild: (o, progress) => buildLayer(context, o, progress),
    layerList: (o) => listLayers(context, o),
    layerShow: (o) => showLayer(context, o),
    layerVerify: (o, progress) => verifyLayers(context, o, progress),
    layerRemove: (o) => removeLayer(context, o),
    templateCreate: (o, progress) => createTemplate(context, o, progress),
    templateAdd: async (o, progress) => addLayers(context, o, progress),
    templateRemove: async (o, progress) => removeLayers(context, o, progress),
    templateHold: async (o) => holdLayer(context, o),
    templateShow: async (name) => templateInfo(context, name),
    templateList: async () => listTemplates(context),
    templateDelete: (name) => deleteTemplate(context, name),
    templateFreeze: (o, progress) => freezeTemplate(context, o, progress),
    update: (o, progress) => updateFleet(context, o, progress),
    rollback: (o, progress) => rollbackTemplate(context, o, progress),
    create: (o, progress) => createAppliances(context, o, progress),
    clone: async ({ path, mode = 'async', ...o }, progress) => {
      if (path !== undefined) return cloneRooted(context, { ...o, path }, progress);
      const { cloned, onDisk } = await cloneAppliance(context, o);
      await mergeAfterClone(context, cloned.name, mode, progress);
      if (mode === 'sync') await onDisk;
      return cloned;
    },
    importDir: (o, progress) => importDirectory(context, o, progress),
    quotaSet: (o) => setQuota(context, o),
    quotaShow: (name) => quotaOf(context, name),
    list: (o) => listAppliances(context, o),
    show: (name) => showAppliance(context, name),
    async delete(names) {
      await endStaleRuns(context);
      return deleteAll(context, names);
    },
    async snapshot(o) {
      const taken = await takeSnapshot(context, o);
      await mergeAfterClone(context, o.name, 'async', noProgress);
      return taken;
    },
    snapshots: async (name) => listSnapshots(context, name),
    restore: (o) => restoreSnapshot(context, o),
    async merge(o, progress) {
      const merged = await mergeAppliances(context, o);
      if (merged.merged) await mergeAfterClone(context, o.into, 'async', progress);
      return merged;
    },
    promote: (name) => promoteAppliance(context, name),
    tree: (o) => familyTree(context, o),
    ttl: (o) => setTtl(context, o),
    expire: (o) => expireAppliances(context, o),
    mount: (o) => mountAppliance(context, o),
    async umount(o) {
      await endStaleRuns(context);
      return unmountTarget(context, o);
    },
    prepareRun: (o) => prepareRun(context, o),
    finishRun: (runId) => finishRun(context, runId),
    diff: (o) => diffAppliance(context, o),
    revert: async (o) => revertPaths(context, o),
    reset: async (o) => resetAppliance(context, o),
    why: (o) => explainWhy(context, o),
    policyCreate: (o) => createPolicy(context, o),
    policyList: async () => listPolicies(context),
    policyShow: async (name) => showPolicy(context, name),
    policyDelete: (name) => deletePolicy(context, name),
    policyApply: (o) => applyPolicy(context, o),
    policyRules: async (name) => policyState(context, name),
    policyMark: (o) => markPaths(context, o),
    policyLog: async (name) => policyLog(context, name),
    status: () => statusOf(context, notes),
    gc: (o, progress) => collectGarbage(context, o, progress),
    fsck: (o, progress) => checkFleet(context, o, progress),
    scan: (o, progress) => scanFleet(context, o, progress),
    scanOnOpen: (o) => setScanOnOpen(context, o),
    scanState: async () => ({ quarantine: listQuarantine(context), on_open: listOnOpen(context) }),
    quarantineRelease: (digest) => releaseQuarantine(context, digest),
    rebuildCatalog: () => context.locks.with([COMMIT], () => rebuildCatalog(context)),
    close: async () => {
      await stopMerges(context);
      await context.locks.with([COMMIT], () => context.catalog.close());
    },
  };
}
