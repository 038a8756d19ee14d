/** Whether strata-fs serves an appliance: what it answered last is mostly so still, and who only guesses need not wait for its answer. */
import type { DataPlane } from '../../fuse/contract.ts';
import type { FleetContext } from '../context.ts';

const servedBefore = new WeakMap<FleetContext, Set<string>>();

/** The data plane, when it serves the appliance; else null. */
export async function servedBy(context: FleetContext, name: string): Promise<DataPlane | null> {
  const plane = await context.runningDataPlane();
  const isServed = plane !== null && (await plane.find({ id: name })).mounts.length > 0;
  const before = servedBefore.get(context) ?? new Set();
  servedBefore.set(context, before);
  if (isServed) before.add(name);
  else before.delete(name);
  return isServed ? plane : null;
}

/** Whether that was so when `servedBy` was asked last. */
export function wasServed(context: FleetContext, name: string): boolean {
  return servedBefore.get(context)?.has(name) ?? false;
}
