/** A process that imports a directory by moving it and is killed at the N-th step: `node import-child.test-support.ts ROOT SOURCE N`. */
import { noProgress } from '../../base/index.ts';
import { fakePlane } from '../fleet.test-support.ts';
import { openFleetWith } from '../fleet.ts';

const [root, source, at] = process.argv.slice(2) as [string, string, string];
let isArmed = false;
let steps = 0;
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
await fleet.importDir({ source, name: 'm', how: 'move' }, noProgress);
isArmed = false;
await fleet.close();
