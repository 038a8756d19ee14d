/**
 * A process that mounts appliance `a` by the sealed door, changes its tree, unmounts it, and is killed at the N-th step: `node
 * sealed-crash-child.test-support.ts ROOT DIR N`. Prints each step; exits with 0 when all was done before that step.
 */
import { writeSync } from 'node:fs';
import { fakePlane } from '../fleet.test-support.ts';
import { openFleetWith } from '../fleet.ts';
import { changeTree } from './crash.test-support.ts';

const [root, dir, at] = process.argv.slice(2) as [string, string, string];
let steps = 0;
const plane = fakePlane();
function onStep(step: string): void {
  writeSync(1, `${step}\n`);
  if (++steps === Number(at)) process.kill(process.pid, 'SIGKILL');
}
const fleet = await openFleetWith({ root, dataPlane: async () => plane }, { onStep });
await fleet.mount({ name: 'a', dir, door: 'sealed' });
changeTree(dir);
onStep('changed');
await fleet.umount({ target: 'a' });
await fleet.close();
