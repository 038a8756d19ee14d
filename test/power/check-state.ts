/**
 * Opens the state root that a power cut left, as stratad does, and tells what is there as one JSON value. Run as: node check-state.ts ROOT
 * gc|- APPLIANCE...; the private content of those is told apart from the picture. No mount lives after a power cut, so the data plane is one that
 * only remembers.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { noProgress } from '../../src/base/index.ts';
import { fakePlane } from '../../src/fleet/fleet.test-support.ts';
import { openFleetWith } from '../../src/fleet/fleet.ts';
import { ownFiles, type Picture, pictureOf } from './picture.ts';

export interface StateFound {
  picture: Picture;
  /** By appliance: its private files, and what it deleted. */
  content: Record<string, { files: Record<string, string>; deleted: string[] }>;
  /** What is wrong: notes of the opening, findings of fsck before and after gc, what gc changed. */
  problems: string[];
}

const [root, gc, ...apart] = process.argv.slice(2) as [string, string, ...string[]];
const plane = fakePlane();
const fleet = await openFleetWith({ root, dataPlane: async () => plane });
const problems = [...(await fleet.status()).notes];
for (const { name } of (await fleet.list()).appliances) {
  if (!existsSync(join(root, 'appliances', name, 'sealed.json'))) continue;
  // What a sealed mount wrote is absorbed when the appliance is next used.
  await fleet.mount({ name, dir: '/mnt' });
  await fleet.umount({ target: '/mnt' });
}
async function check(when: string): Promise<void> {
  const found = await fleet.fsck({ deep: true }, noProgress);
  for (const { object, problem } of found.problems) problems.push(`fsck ${when}: ${object}: ${problem}`);
}
await check('after the power cut');
const picture = await pictureOf(fleet, root, apart);
const content: StateFound['content'] = {};
for (const name of apart) {
  if (!(name in picture.appliances)) continue;
  const { entries } = await fleet.diff({ name });
  const deleted = entries.filter(({ change }) => change === 'deleted').map(({ path }) => path);
  content[name] = { files: ownFiles(root, name), deleted };
}
if (gc === 'gc') {
  await fleet.gc({ keep: 1 }, noProgress);
  await check('after gc');
  if (JSON.stringify(await pictureOf(fleet, root, apart)) !== JSON.stringify(picture))
    problems.push('gc changed what is seen');
}
await fleet.close();
// More than a pipe holds is written later: not before the process may end.
process.stdout.write(JSON.stringify({ picture, content, problems } satisfies StateFound), () =>
  process.exit(0),
);
