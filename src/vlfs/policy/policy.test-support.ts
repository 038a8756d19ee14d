/** Forks for tests: a frozen private layer below a fresh one, with a policy. */
import { join } from 'node:path';
import type { LevelSpec, PolicySpec, StackSpec, VlfsSpec } from '../contract.ts';
import { type Sandbox, stackOf } from '../test-support/vlfs.test-support.ts';

let forks = 0;

/** The levels that a fork of the appliance inherits: its private layer as it is now, and its stack. */
export function inherited(spec: VlfsSpec): LevelSpec[] {
  const id = `frozen/${++forks}`;
  const frozen: LevelSpec = {
    kind: 'frozen',
    id,
    treeDir: spec.privateDir,
    // Frozen layers have none.
    indexFile: '',
    whiteoutsDir: spec.whiteoutsDir,
  };
  return [frozen, ...spec.stack.levels.map(({ own: _, ...level }) => level)];
}

export function withPolicy(stack: StackSpec, policy: PolicySpec): StackSpec {
  const levels = stack.levels.map(({ own, rulesFrom }) => `${own} ${rulesFrom}`);
  return { ...stack, policy, key: [stack.key, ...levels, ...policy.rules].join('\n') };
}

/** A fork of the appliance that does not get what the rules exclude. */
export function fork(box: Sandbox, spec: VlfsSpec, name: string, rules: string[]): VlfsSpec {
  const child = box.spec(name, []);
  child.stack = withPolicy(stackOf(inherited(spec)), { rules });
  return { ...child, denialsFile: join(box.dir, `denied-${name}`) };
}
