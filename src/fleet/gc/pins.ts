/**
 * What running commands are about to use: a command that resolved a stack needs its units, and the generations it refers to, until it has
 * committed or failed, though nothing on disk refers to them yet. Whatever is pinned inside a command stays pinned until the outermost
 * locks of that command are released. Pins are memory: a killed process uses nothing any more.
 */
import { AsyncLocalStorage } from 'node:async_hooks';
import type { UnitId } from '../../base/index.ts';
import type { ConfigRef } from '../templates/generations.ts';

interface Scope {
  units: Set<UnitId>;
  generations: Set<string>;
}

const storage = new AsyncLocalStorage<Scope>();
const active = new Set<Scope>();

/** Runs `work` as (a part of) one command. */
export async function inPinScope<T>(work: () => T | Promise<T>): Promise<T> {
  const outer = storage.getStore();
  if (outer !== undefined && active.has(outer)) return work();
  const scope: Scope = { units: new Set(), generations: new Set() };
  active.add(scope);
  try {
    return await storage.run(scope, work);
  } finally {
    active.delete(scope);
  }
}

/** The running command uses these units. Must come before it looks whether they are there. */
export function pinUnits(ids: Iterable<UnitId>): void {
  const scope = storage.getStore();
  if (scope !== undefined) for (const id of ids) scope.units.add(id);
}

/** The running command is going to refer to these generations. In the same turn of the event loop in which it has read them. */
export function pinGenerations(refs: Iterable<ConfigRef>): void {
  const scope = storage.getStore();
  if (scope !== undefined) for (const ref of refs) scope.generations.add(generationKey(ref));
}

/** A generation as one word. */
export function generationKey({ owner, generation }: ConfigRef): string {
  return `${owner} ${generation}`;
}

export function isGenerationPinned(ref: ConfigRef): boolean {
  const key = generationKey(ref);
  for (const scope of active) if (scope.generations.has(key)) return true;
  return false;
}

/** Units that running commands are about to use. */
export function pinnedUnits(): Set<UnitId> {
  const all = new Set<UnitId>();
  for (const { units } of active) for (const id of units) all.add(id);
  return all;
}

/** Whether a command other than the caller's own runs that holds locks. */
export function othersRun(): boolean {
  const own = storage.getStore();
  for (const scope of active) if (scope !== own) return true;
  return false;
}
