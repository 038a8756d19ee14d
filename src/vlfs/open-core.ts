/** Opening and closing the state of a VLFS, and finishing at opening what a crash cut off. */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { nameFromText, StrataError } from '../base/index.ts';
import { AT_FDCWD, close, E, newStat, readDirectory, S_IFDIR } from '../sys/index.ts';
import { deleteAside } from './aside/delete-aside.ts';
import { finishReset } from './changes/reset.ts';
import { readScanOnOpen } from './checks/scan-on-open.ts';
import type { VlfsSpec } from './contract.ts';
import { dropCopyUp, INLINE_BYTES } from './copy-up/copy-up.ts';
import { finishLinkJournals } from './copy-up/copy-up-links.ts';
import { type Core, newNode } from './core.ts';
import { dropFill } from './delta/fill.ts';
import { readBases } from './delta/partial-form.ts';
import { systemFailure } from './failure.ts';
import type { Ledger } from './ledger/ledger.ts';
import { dropListing } from './listing/listings.ts';
import { createWhoLooks } from './listing/who-looks.ts';
import { closeBacking } from './nodes/handles.ts';
import { countHandles, countNodes, nodeCapacity } from './nodes/shares.ts';
import { refresh } from './operations/lookup.ts';
import { openDenialLog } from './policy/denials.ts';
import { dropDirectoryFd } from './private-layer/directory-fds.ts';
import { dropAllParked } from './private-layer/parked-files.ts';
import { openPrivateDir } from './private-layer/private-layer.ts';
import { giveUpUnfinished } from './private-layer/unfinished.ts';
import { RELAYER_FILES, removeTree, workDirOf } from './private-layer/work-dir.ts';
import { closeQuota } from './quota/quota.ts';
import type { HiddenEntries } from './stack/merged-directory.ts';
import { closeStack, hasFrozenLayers, openStack, openStackSteps, type Stack } from './stack/stack.ts';
import { advance, finished, type Steps } from './steps.ts';
import { loadAllHidden, loadAllHiddenSteps, openDirectory } from './whiteouts/whiteout-sets.ts';

/**
 * Passthrough shares a layer's pages between all mounts, but registering the file costs system calls, the kernel asks for its attributes again after
 * each read, and a reader does not see what a later copy-up writes. So small files are read through the page cache of the mount.
 */
const CACHED_BYTES = 64 * 1024;

export interface OpenOptions {
  /** Shared files up to this size are read through the page cache of the mount (default: by the spec's cache mode), larger ones by passthrough. */
  cachedBytes?: number;
  /** Shared files larger than this become partial ones when they are changed; default: what is copied at once anyway. */
  partialBytes?: number;
  /** Called before each change on disk, for fault injection in tests. */
  onStep?: (step: string) => void;
  /** Told the node ids whose attributes the kernel must ask for again: a copy-up changes change times that the kernel did not ask to change. */
  onAttributes?: (nodeId: number) => void;
  /** Takes a descriptor whose closing frees much space, so that it is closed elsewhere. Without it, it is closed here. */
  onClose?: (fd: number) => void;
  /** Told the node ids whose backing file was closed after OpenOut.keepsBacking. */
  onBackingClosed?: (nodeId: number) => void;
  /** What a later process needs to go on serving is noted there. */
  ledger?: Ledger;
  /** Large deletions run on a thread of their own, because this one serves others; default false. */
  background?: boolean;
  /** Objects that all VLFSs of the thread may know; default: what fits into half of its heap. */
  mostNodes?: number;
  /** A relayer was decided by a process that is taken over: its files stay (relayer.ts, finishRelayer). */
  keepRelayer?: boolean;
  /** What it hides, when that was read just now (prepareVlfs). */
  hidden?: HiddenEntries;
  /** Only look: nothing is finished or cleaned, because another process may have the VLFS open. */
  inspect?: boolean;
}

/** What takes long at an opening, done in steps; who opens the VLFS next finds it done. */
export interface Preparation {
  /** Goes on until `untilMs` (performance.now()). What the VLFS hides, when all is done, else null. Throws as openStack. */
  step(untilMs: number): HiddenEntries | null;
  /** Gives back what is held. */
  release(): void;
}

/** Nobody else may have the VLFS open. */
export function prepareVlfs(spec: VlfsSpec): Preparation {
  let stack: Stack | null = null;
  function* prepare(): Steps<HiddenEntries> {
    stack = yield* openStackSteps(spec.stack, { stamp: spec.unitsStamp });
    finishReset(spec.privateDir, spec.whiteoutsDir, workDirOf(spec.privateDir));
    return yield* loadAllHiddenSteps(spec.whiteoutsDir, stack);
  }
  const steps = prepare();
  let hidden: HiddenEntries | null = null;
  return {
    step(untilMs) {
      if (hidden !== null) return hidden;
      const went = advance(steps, untilMs);
      if (went !== 'more' && 'result' in went) hidden = went.result;
      return hidden;
    },
    release() {
      steps.return(null as never);
      if (stack !== null) closeStack(stack);
      stack = null;
    },
  };
}

/** Opens a VLFS. Throws when the private layer or a level of the stack cannot be opened. */
export function openCore(spec: VlfsSpec, options: OpenOptions = {}): Core {
  const workDir = workDirOf(spec.privateDir);
  if (options.inspect !== true) finishReset(spec.privateDir, spec.whiteoutsDir, workDir);
  const stack = openStack(spec.stack);
  let rootFd = openPrivateDir(spec.privateDir);
  if (rootFd === -E.NOENT && options.inspect !== true) {
    mkdirSync(spec.privateDir, { mode: 0o755 });
    rootFd = openPrivateDir(spec.privateDir);
  }
  if (rootFd < 0) {
    closeStack(stack);
    throw systemFailure(rootFd, `open the private layer ${spec.privateDir}`);
  }
  const whiteoutsFd = openDirectory(AT_FDCWD, nameFromText(spec.whiteoutsDir));
  const core: Core = {
    name: spec.name,
    privateDir: spec.privateDir,
    whiteoutsDir: spec.whiteoutsDir,
    workDir,
    readOnly: spec.readOnly || options.inspect === true,
    stack,
    generation: 1,
    hidden: options.hidden ?? loadAllHidden(spec.whiteoutsDir, stack),
    nodes: new Map(),
    mostNodes: options.mostNodes ?? nodeCapacity(),
    pruneNext: null,
    nextId: 1,
    root: null as never,
    byPrivateIno: new Map(),
    bySharedInode: new Map(),
    rootFd,
    whiteoutsFd: whiteoutsFd < 0 ? -1 : whiteoutsFd,
    workFd: -1,
    temporaries: 0,
    hasFrozen: hasFrozenLayers(stack),
    hasRedirects: false,
    moved: null,
    movedSearch: null,
    unfinished: new Set(),
    changedSetFd: -1,
    whiteoutSync: null,
    listed: new Set(),
    whoLooks: createWhoLooks(),
    handles: [],
    freeHandles: [],
    ledger: options.ledger ?? null,
    lastAttrs: null,
    denials:
      spec.denialsFile === undefined || options.inspect === true ? null : openDenialLog(spec.denialsFile),
    revoked: new WeakSet(),
    passthrough: false,
    noOpen: false,
    demand: null,
    leaving: [],
    exact: spec.cache === 'exact',
    cachedBytes: options.cachedBytes ?? (spec.cache === 'exact' ? Number.POSITIVE_INFINITY : CACHED_BYTES),
    partialBytes:
      spec.wholeCopies === true ? Number.POSITIVE_INFINITY : (options.partialBytes ?? INLINE_BYTES),
    hasPartials: false,
    bases: readBases(rootFd, spec.privateDir),
    fills: [],
    filling: 0,
    freezing: false,
    following: null,
    posixAcl: false,
    scanOnOpen: options.inspect === true ? null : readScanOnOpen(spec.privateDir),
    quota: null,
    background: options.background ?? false,
    onStep: options.onStep ?? null,
    onAttributes: options.onAttributes ?? null,
    onBackingClosed: options.onBackingClosed ?? null,
    onClose: options.onClose ?? null,
    stat: newStat(),
    where: 0,
    ref: -1,
    whiteout: false,
  };
  core.hasPartials = core.bases.size > 0;
  core.root = newNode(core, S_IFDIR);
  core.root.children = new Map();
  core.root.generation = -1;
  core.root.lookups = 1;
  if (options.inspect !== true) cleanWork(core, options.keepRelayer === true);
  const loaded = refresh(core, core.root);
  if (loaded < 0) {
    closeCore(core);
    throw new StrataError('IO', `the private layer ${spec.privateDir} cannot be read`);
  }
  return core;
}

/** Finishes journals and deletes what else a crash left in the work directory. */
function cleanWork(core: Core, keepRelayer: boolean): void {
  const fd = openDirectory(AT_FDCWD, nameFromText(core.workDir));
  if (fd < 0) return;
  core.workFd = fd;
  finishLinkJournals(core.rootFd, fd);
  const left = readDirectory(fd);
  if (typeof left === 'number') return;
  for (const { name } of left) {
    if (keepRelayer && name.startsWith(RELAYER_FILES)) continue;
    if (name.startsWith('trash-')) deleteAside(join(core.workDir, name), core.background);
    else removeTree(fd, name);
  }
}

/** Closes every descriptor of the VLFS. */
export function closeCore(core: Core): void {
  giveUpUnfinished(core);
  closeQuota(core);
  core.denials?.close();
  finished(dropAllParked(core));
  for (const handle of core.handles) {
    if (handle === null || handle.backing === null) continue;
    handle.backing.opens--;
    if (handle.backing.opens === 0) closeBacking(handle.backing);
  }
  for (const handle of core.handles) if (handle !== null) countHandles(-1);
  core.handles.length = 0;
  core.freeHandles.length = 0;
  for (const node of core.nodes.values()) {
    if (node.children !== null) {
      dropDirectoryFd(node);
      dropListing(node);
    }
    dropCopyUp(core, node);
    if (node.partial) dropFill(node.partial);
  }
  countNodes(-core.nodes.size);
  core.nodes.clear();
  core.pruneNext = null;
  for (const fd of [core.rootFd, core.whiteoutsFd, core.workFd, core.changedSetFd]) if (fd >= 0) close(fd);
  core.rootFd = core.whiteoutsFd = core.workFd = core.changedSetFd = -1;
  closeStack(core.stack);
}
