/**
 * What one VLFS may take of what all VLFSs of a thread share, so that none starves the others: each may hold as much as is free (of open
 * files three times that). So one alone gets half (three quarters), several get less each, and something is always left.
 *   nodes    names that the kernel or a program remembers, about 425 bytes each; half of the thread's heap
 *   handles  open files, at most a descriptor each; for all threads together half of the process's limit
 * Who asks for more gets ENFILE. Long before that the kernel is asked to forget the nodes that were first looked up and that nobody uses.
 */
import { availableParallelism } from 'node:os';
import { getHeapStatistics } from 'node:v8';
import { raiseOpenFiles } from '../../sys/index.ts';
import type { Core, Node } from '../core.ts';

const BYTES_PER_NODE = 425;
/** As process/threads.ts starts them. */
const SERVING_THREADS = 4;
/** Of its share, a VLFS keeps this part without being asked to forget. */
const KEPT_PART = 4;
/** Nodes that the kernel is asked to forget at a time, and that are looked at for it. */
const BATCH = 8192;

let nodes = 0;
let handles = 0;
let mostHandles = 0;

/** Nodes for all VLFSs of this thread, unless a test says otherwise. */
export function nodeCapacity(): number {
  return Math.floor(getHeapStatistics().heap_size_limit / 2 / BYTES_PER_NODE);
}

export function countNodes(change: number): void {
  nodes += change;
}

export function countHandles(change: number): void {
  handles += change;
}

/** Whether the VLFS may get to know one more object. */
export function mayRemember(core: Core): boolean {
  return core.nodes.size < core.mostNodes - nodes;
}

/** Whether the VLFS may open one more file. */
export function mayOpen(core: Core): boolean {
  if (mostHandles === 0)
    mostHandles = Math.floor(raiseOpenFiles(0) / 2 / Math.min(SERVING_THREADS, availableParallelism()));
  return core.handles.length - core.freeHandles.length < 3 * (mostHandles - handles);
}

/** Node numbers that the kernel should forget if nobody uses them there, the first looked up first; [] while the VLFS is within its share, and no layer left. */
export function takePrunable(core: Core): number[] {
  if (core.leaving.length > 0) return core.leaving.splice(0, BATCH);
  if (core.nodes.size < (core.mostNodes - nodes) / KEPT_PART) return [];
  const found: number[] = [];
  for (let seen = 0; seen < BATCH; seen++) {
    core.pruneNext ??= core.nodes.values();
    const next: IteratorResult<Node, undefined> = core.pruneNext.next();
    if (next.done === true) {
      core.pruneNext = null;
      break;
    }
    const { id, lookups, opens, children } = next.value;
    if (lookups > 0 && opens === 0 && (children === null || children.size === 0) && next.value !== core.root)
      found.push(id);
  }
  return found;
}
