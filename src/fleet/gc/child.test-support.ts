/** A process that collects garbage and is killed at the N-th step of it: `node gc-child.test-support.ts ROOT N`. Exits with 0 when it ended before. */
import { noProgress } from '../../base/index.ts';
import { fakePlane } from '../fleet.test-support.ts';
import { openFleetWith } from '../fleet.ts';

const [root, at] = process.argv.slice(2) as [string, string];
let steps = 0;
let isArmed = false;
const plane = fakePlane();
const fleet = await openFleetWith(
  { root, dataPlane: async () => plane },
  {
    onStep() {
      if (isArmed && ++steps === Number(at)) process.kill(process.pid, 'SIGKILL');
    },
  },
);
isArmed = true;
await fleet.gc({ keep: 1 }, noProgress);
isArmed = false;
await fleet.close();
