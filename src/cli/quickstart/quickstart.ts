/**
 * `strata quickstart`: the whole story on real packages, every step checked. It can be run again in the same place: what an earlier
 * run left intact is used, nothing is downloaded again, and the greeting's version counts up.
 */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { StrataError } from '../../base/index.ts';
import { ensureDaemon, findDaemon } from '../../client/index.ts';
import { DEFAULT_ROOT } from '../../daemon/contract.ts';
import type { Invocation, Outcome } from '../command.ts';
import { formatDuration } from '../format.ts';
import { number } from '../words.ts';
import { changeAndRevert, patchTheFleet, resetToClean, serveFirst } from './act-running.ts';
import { prepareLayers, prepareRepositories, prepareTemplate, provision } from './act-setup.ts';
import { createContainers } from './container.ts';
import { createNarrator } from './narrator.ts';
import { choosePort, quickstartDir, readNotes } from './notes.ts';
import type { Story } from './story.ts';

export async function quickstart(invocation: Invocation): Promise<Outcome> {
  const { context } = invocation;
  if (process.getuid?.() !== 0) {
    throw new StrataError('DENIED', 'the quickstart must run as root', { hint: 'use sudo' });
  }
  const begun = performance.now();
  const notes = readNotes(context.root);
  const port = await choosePort(number(invocation, 'port'), notes?.port);
  mkdirSync(join(quickstartDir(context.root), 'layers'), { recursive: true });
  const narrator = createNarrator({
    write: (text) => {
      if (!context.json) process.stdout.write(text);
    },
    colour: Boolean(process.stdout.isTTY) && !process.env['NO_COLOR'],
  });
  const containers = createContainers(context.root);
  const story: Story = { context, narrator, containers, port };
  const interrupted = () => {
    void containers.stopAll().finally(() => process.exit(130));
  };
  process.once('SIGINT', interrupted);
  process.once('SIGTERM', interrupted);
  try {
    await tell(story);
  } finally {
    await containers.stopAll();
    process.off('SIGINT', interrupted);
    process.off('SIGTERM', interrupted);
  }
  return ending(story, performance.now() - begun);
}

async function tell(story: Story): Promise<void> {
  const { context, narrator } = story;
  const { root } = context;
  narrator.chapter(`Strata keeps everything of this story below ${root}.`);
  await narrator.step({ title: 'stratad, the control plane', command: 'strata daemon start' }, async () => {
    const running = await findDaemon(root);
    const { pid } = running ?? (await ensureDaemon({ root }));
    if (running) narrator.reuse();
    narrator.say(`stratad ${running ? 'runs already' : 'has started'}, pid ${pid}`);
  });
  await prepareRepositories(story);
  await prepareTemplate(story);
  const version = await prepareLayers(story);
  await provision(story);
  const server = await serveFirst(story);
  await changeAndRevert(story);
  await patchTheFleet(story, { version, server });
  await resetToClean(story, server);
}

function ending({ context, narrator, port }: Story, elapsed_ms: number): Outcome {
  const { root } = context;
  return {
    json: { steps: narrator.times, elapsed_ms: Math.round(elapsed_ms), root, port },
    human: (print) => {
      print.line();
      print.table(
        ['TIME', 'STEP'],
        narrator.times.map((t) => [t.reused ? 'was there' : formatDuration(t.elapsed_ms), t.step]),
        '',
      );
      print.line(`${formatDuration(elapsed_ms)} in all`);
      print.line();
      print.line('What to try next:');
      print.line(`    export PATH="${BIN}:$PATH"${root === DEFAULT_ROOT ? '' : ` STRATA_ROOT=${root}`}`);
      for (const [command, does] of NEXT) print.line(`    ${command.padEnd(52)} # ${does}`);
    },
  };
}

const BIN = join(import.meta.dirname, '../../../bin');
const NEXT = [
  ['strata list', 'the three appliances'],
  ['strata run web-2', 'a shell in one; leave it, then strata diff web-2'],
  ['strata why web-2 /usr/sbin/nginx', 'which layer, and why it is in'],
  ['strata mount web-3 /mnt/web-3', 'look into it, change it'],
  ['strata clone web-3 try-3', 'a fork of it, in milliseconds, mounted or not'],
  ['strata diff web-3 try-3', 'what tells the two apart'],
  ['strata create node --template web --count 1000', 'a thousand more, in a second'],
  ['strata template add web main/php-fpm', 'all of them have it at once'],
  ['strata rollback web', 'and none'],
  ['strata template create db mariadb-server', 'another template from the same archive'],
  ['strata help', 'everything else; strata help COMMAND'],
] as const;
