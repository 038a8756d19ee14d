/**
 * A process that does one command of the fleet and is killed at the N-th step of it: `node crash-child.test-support.ts ROOT COMMAND N`.
 * Exits with 0 when the command ended before that step.
 */
import { COMMANDS } from './crash-commands.test-support.ts';
import { fakePlane } from './fleet.test-support.ts';
import { openFleetWith } from './fleet.ts';

const [root, command, at] = process.argv.slice(2) as [string, string, string];
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
await COMMANDS[command]!(fleet);
isArmed = false;
await fleet.close();
