/**
 * The state of one open VLFS, and the records that its parts share. One thread uses it; nothing in it is asynchronous.
 * Kept true: a node's id is never used twice; `byPrivateIno` and `bySharedInode` hold exactly the nodes with a name in the tree.
 */
import type { Stat } from '../sys/index.ts';
import type { ScanOnOpen } from './checks/scan-on-open.ts';
import type { Attr, SlowJob } from './contract.ts';
import type { Partial } from './delta/partial-file.ts';
import type { Following } from './freeze/follow.ts';
import type { Ledger } from './ledger/ledger.ts';
import type { WhoLooks } from './listing/who-looks.ts';
import type { MovedDirectory } from './nodes/moved-directories.ts';
import type { DemandedOpen, OpensOnDemand } from './nodes/opens-on-demand.ts';
import { countNodes } from './nodes/shares.ts';
import type { DenialLog } from './policy/denials.ts';
import type { Quota } from './quota/quota.ts';
import type { HiddenEntries, MergedDirectory, Reference } from './stack/merged-directory.ts';
import type { Stack, Unit } from './stack/stack.ts';
import type { Steps } from './steps.ts';

/** One object as the kernel knows it. Directories are identified by their path, files by their content's inode. */
export interface Node {
  readonly id: number;
  /** S_IFMT bits. */
  readonly kind: number;
  ino: number;
  /** Where the object has a name; null: the root, or nowhere any more. */
  parent: Node | null;
  name: string;
  /** Further names that were looked up (hard links), by `nameKey`; there may be tens of thousands. */
  moreNames: Map<string, { parent: Node; name: string }> | null;
  /** References of the kernel. */
  lookups: number;
  opens: number;
  /** Open handles that may write, and those of them through which a mapping may (O_RDWR). */
  writers: number;
  mappers: number;
  /** Files: the shared inode that this is, or was before its copy-up. */
  unit: Unit | null;
  entry: number;
  /** The private layer has it (directories: too). */
  priv: boolean;
  privIno: number;
  /** Private files: the partial file that it is; null: it is whole. undefined: not looked at yet; see partialOf. */
  partial: Partial | null | undefined;
  backing: Backing | null;
  /** What `backing` was before the last release; see parked-files.ts. */
  parked: Backing | null;
  /** The handle that stands for all opens of a kernel that does not tell them; see opens-on-demand.ts. */
  demanded: DemandedOpen | null;
  copyUp: CopyUp | null;
  /** The node that took over the names when a file with live passthrough opens was copied up. */
  successor: Node | null;
  /** The last attributes, once no name is left. */
  gone: Attr | null;
  /** The VLFS's generation in which the place was last checked. */
  generation: number;
  /** Directories only. */
  children: Map<string, Node> | null;
  merged: MergedDirectory | null;
  redirect: string | null;
  defaultAcl: boolean;
  /** Private files: known to have no security.capability, which the kernel asks for before a file's first write. */
  noCapability: boolean;
  /** Descriptor of the private copy, or -1, and when it was used last; see directory-fds.ts. */
  privFd: number;
  privFdUsed: number;
  /** Its record in the ledger, or -1. */
  slot: number;
}

/** The open backing file of a node; all opens of a node share one, because the kernel allows one for passthrough. */
export interface Backing {
  /** -1: not opened before the first read. */
  fd: number;
  shared: boolean;
  /** The kernel keeps the content in the mount's page cache; never given to it for passthrough. */
  cached: boolean;
  writable: boolean;
  /** Somebody opened it for writing. */
  written: boolean;
  opens: number;
  /** A partial file with blocks of its own, and the file below it. */
  partial: Partial | null;
  baseFd: number;
}

/** A copy-up that waits for its slow part. */
export interface CopyUp {
  /** What is under way or comes next. */
  job: SlowJob;
  fromFd: number;
  toFd: number;
  temporary: string;
  /** The data is copied and on the disk. */
  finished: boolean;
}

export interface Handle {
  node: Node;
  backing: Backing | null;
  flags: number;
}

export interface Core {
  readonly name: string;
  readonly privateDir: string;
  readonly whiteoutsDir: string;
  readonly workDir: string;
  readonly readOnly: boolean;
  stack: Stack;
  /** Counts exchanges of what lies below or in the private layer; directories check themselves again after each. */
  generation: number;
  hidden: HiddenEntries;
  readonly nodes: Map<number, Node>;
  /** Nodes for all VLFSs of the thread; see shares.ts. */
  readonly mostNodes: number;
  /** Where the next search for nodes to forget begins. */
  pruneNext: Iterator<Node, undefined> | null;
  nextId: number;
  root: Node;
  readonly byPrivateIno: Map<number, Node>;
  readonly bySharedInode: Map<Unit, Map<number, Node>>;
  /** Descriptor of private/. */
  rootFd: number;
  /** Opened on first use, or -1. */
  whiteoutsFd: number;
  workFd: number;
  temporaries: number;
  /** The stack has frozen layers. */
  hasFrozen: boolean;
  /** Some private directory has (or had) a redirect: what lies below a hidden shared directory may show elsewhere. */
  hasRedirects: boolean;
  /** What `moved-directories.ts` found, or null. */
  moved: MovedDirectory[] | null;
  /** The search for them that is under way. */
  movedSearch: SlowJob | null;
  /** Steps under way; see unfinished.ts. */
  readonly unfinished: Set<Steps<unknown>>;
  /** The directory of a whiteout set that was changed last and not synced since, or -1. */
  changedSetFd: number;
  /** The job that brings them to the disk. */
  whiteoutSync: SlowJob | null;
  /** Ids of directories whose listing the kernel may keep. */
  listed: Set<number>;
  /** Which programs look at what they list. */
  readonly whoLooks: WhoLooks;
  readonly handles: (Handle | null)[];
  readonly freeHandles: number[];
  /** What a later process needs to go on serving; null: nobody will. */
  readonly ledger: Ledger | null;
  /** After a takeover: last attributes of nodes whose removal may have been cut off. */
  lastAttrs: ReadonlyMap<number, Attr> | null;
  /** Notes what the policy denies, or null. */
  readonly denials: DenialLog | null;
  /** Open files that the policy hides since it became stricter. */
  readonly revoked: WeakSet<Node>;
  passthrough: boolean;
  /** The kernel opens files without telling. */
  noOpen: boolean;
  demand: OpensOnDemand | null;
  /** Nodes that are kept open because their layer left; the kernel is asked to forget them. */
  leaving: number[];
  /** The cache mode. */
  readonly exact: boolean;
  /** Shared files up to this size are read through the page cache of the mount, larger ones by passthrough. */
  readonly cachedBytes: number;
  /** Shared files larger than this become partial ones when they are changed. */
  readonly partialBytes: number;
  /** There are, or were, partial files; the units below them, with their trees. */
  hasPartials: boolean;
  bases: ReadonlyMap<string, string>;
  /** Partial files that wait for the background, and how many are being completed. */
  readonly fills: Node[];
  filling: number;
  /** The private layer is about to be frozen: nothing is begun in the background. */
  freezing: boolean;
  /** Files that are copied after a freeze, or null. */
  following: Following | null;
  posixAcl: boolean;
  /** Contents are judged before they are opened; null: they are not. */
  scanOnOpen: ScanOnOpen | null;
  /** Limits on what the appliance takes, and how much it does; null: none. */
  quota: Quota | null;
  /** Large deletions run on a thread of their own. */
  readonly background: boolean;
  /** Called before each change on disk: fault injection. */
  readonly onStep: ((step: string) => void) | null;
  /** Told of nodes whose attributes changed by something the kernel did not ask for. */
  readonly onAttributes: ((nodeId: number) => void) | null;
  /** Told of nodes whose parked backing file was closed. */
  readonly onBackingClosed: ((nodeId: number) => void) | null;
  /** Closes a descriptor elsewhere; null: closing may take its time here. */
  readonly onClose: ((fd: number) => void) | null;
  /** Results of the last `resolve`. */
  readonly stat: Stat;
  /** What the last `nodeAt` found: NOTHING, PRIVATE (then `stat` is of the node, unless it is a directory), SHARED or a negative errno. */
  where: number;
  ref: Reference;
  whiteout: boolean;
}

export function newNode(core: Core, kind: number): Node {
  const node = emptyNode(core, core.nextId++, kind);
  core.ledger?.issued(core.nextId);
  return node;
}

/** A node with a given number: `newNode`, or one that a former process gave out. */
export function emptyNode(core: Core, id: number, kind: number): Node {
  const node: Node = {
    id,
    kind,
    ino: 0,
    parent: null,
    name: '',
    moreNames: null,
    lookups: 0,
    opens: 0,
    writers: 0,
    mappers: 0,
    unit: null,
    entry: 0,
    priv: false,
    privIno: 0,
    partial: undefined,
    backing: null,
    parked: null,
    demanded: null,
    copyUp: null,
    successor: null,
    gone: null,
    generation: core.generation,
    children: null,
    merged: null,
    redirect: null,
    defaultAcl: false,
    noCapability: false,
    privFd: -1,
    privFdUsed: 0,
    slot: -1,
  };
  core.nodes.set(node.id, node);
  countNodes(1);
  return node;
}

/** The node of a shared inode that is in the tree, or undefined. `leader`: the leading entry of the hard-link group. */
export function sharedNode(core: Core, unit: Unit, leader: number): Node | undefined {
  return core.bySharedInode.get(unit)?.get(leader);
}

export function rememberShared(core: Core, node: Node): void {
  const unit = node.unit!;
  let ofUnit = core.bySharedInode.get(unit);
  if (ofUnit === undefined) {
    ofUnit = new Map();
    core.bySharedInode.set(unit, ofUnit);
  }
  ofUnit.set(node.entry, node);
}

export function forgetShared(core: Core, node: Node): void {
  if (node.unit === null) return;
  const ofUnit = core.bySharedInode.get(node.unit);
  if (ofUnit?.get(node.entry) !== node) return;
  ofUnit.delete(node.entry);
  if (ofUnit.size === 0) core.bySharedInode.delete(node.unit);
}

/** Announces a change on disk to the ledger and to the fault injector. */
export function step(core: Core, what: string): void {
  core.ledger?.journal.step(what);
  core.onStep?.(what);
}

/** A copy-up changed a node's attributes (its change time) behind the kernel's back; only a node the kernel knows matters. */
export function attributesMoved(core: Core, node: Node | null): void {
  if (node !== null && (node.lookups > 0 || node === core.root)) core.onAttributes?.(node.id);
}
