/** The second half of the quickstart: one appliance runs, is changed and reverted, the fleet is patched under it, and it is reset. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { DiffEntry } from '../../daemon/contract.ts';
import { formatDuration } from '../format.ts';
import { buildGreeting } from './act-setup.ts';
import { fetchPage, type Server } from './container.ts';
import { must } from './narrator.ts';
import { DELETED, GREETING, greetingText, INTRUDER, MIME_TYPES, PAGE, PAGE_TEXT } from './site.ts';
import { APPLIANCES, type Story, TEMPLATE } from './story.ts';

const [FIRST, ...OTHERS] = APPLIANCES;
const START_LIMIT_MS = 30_000;
const DEFACED = '<h1>changed in web-1 only</h1>\n';

export async function serveFirst(story: Story): Promise<Server> {
  const { narrator, containers, port } = story;
  return await narrator.step(
    { title: 'One of them runs in a container and serves its page', command: runLine(port) },
    async () => {
      const server = containers.serve(FIRST, ['nginx', '-g', 'daemon off;']);
      const page = await firstPage(server, port);
      must(page === PAGE_TEXT, `the page of the template from nginx, not ${JSON.stringify(page)}`);
      narrator.say(`HTTP 200: ${page.trim()}`);
      return server;
    },
  );
}

function runLine(port: number): string {
  return `strata run ${FIRST} -- nginx -g 'daemon off;' &\ncurl http://127.0.0.1:${port}/`;
}

async function firstPage(server: Server, port: number): Promise<string> {
  const until = performance.now() + START_LIMIT_MS;
  while (performance.now() < until) {
    const ended = server.ended();
    must(ended === null, `nginx to run in ${FIRST}, but ${ended}`);
    const page = await fetchPage(port, '/');
    if (page !== null) return page;
    await sleep(10);
  }
  must(false, `nginx in ${FIRST} to listen within ${START_LIMIT_MS / 1000} s`);
}

export async function changeAndRevert(story: Story): Promise<void> {
  const { context, narrator, containers, port } = story;
  const shell = [
    `printf '${DEFACED.trim()}\\n' > ${PAGE}`,
    `echo '# changed' >> ${MIME_TYPES}`,
    `rm ${DELETED}`,
    `echo 'touch /tmp/was-here' > ${INTRUDER}`,
  ].join('; ');
  await narrator.step(
    { title: 'Somebody changes and deletes files in it', command: `strata run ${FIRST} -- sh -c "${shell}"` },
    async () => {
      await containers.run(FIRST, ['sh', '-c', shell]);
      const page = await fetchPage(port, '/');
      must(page === DEFACED, 'the running nginx to serve the changed page');
      narrator.say(`HTTP 200: ${page.trim()}`);
    },
  );
  await narrator.step(
    {
      title: 'What stands apart from the layers, and who owns each original',
      command: `strata diff ${FIRST}`,
    },
    async () => {
      const { entries } = await context.call('diff', { name: FIRST });
      const find = (path: string) => entries.find((entry) => entry.path === path);
      must(find(PAGE)?.change === 'changed', `${PAGE} listed as changed`);
      must(find(INTRUDER)?.change === 'added', `${INTRUDER} listed as added`);
      must(find(MIME_TYPES)?.change === 'changed', `${MIME_TYPES} listed as changed`);
      must(find(MIME_TYPES)?.layer?.startsWith('main/nginx-common '), `${MIME_TYPES} owned by nginx-common`);
      must(find(DELETED)?.change === 'deleted', `${DELETED} listed as deleted`);
      for (const entry of entries.slice(0, 12)) narrator.say(diffLine(entry));
      if (entries.length > 12) narrator.say(`... and ${entries.length - 12} more`);
    },
  );
  await narrator.step(
    { title: 'One file reverted, while nginx runs', command: `strata revert ${FIRST} ${PAGE}` },
    async () => {
      await context.call('revert', { name: FIRST, paths: [PAGE] });
      const page = await fetchPage(port, '/');
      must(page === PAGE_TEXT, 'the running nginx to serve the original page again');
      const { entries } = await context.call('diff', { name: FIRST });
      must(!entries.some((entry) => entry.path === PAGE), `${PAGE} no longer among the changes`);
      must(
        entries.some((entry) => entry.path === DELETED),
        'the other changes to be there still',
      );
      narrator.say(`HTTP 200: ${page.trim()}`);
    },
  );
}

function diffLine(entry: DiffEntry): string {
  const letter = { added: 'A', changed: 'M', deleted: 'D', metadata: 'm' }[entry.change];
  return `${letter}  ${entry.path}${entry.layer === null ? '' : `  (${entry.layer})`}`;
}

export async function patchTheFleet(story: Story, now: { version: number; server: Server }): Promise<void> {
  const { context, narrator, containers, port } = story;
  const next = now.version + 1;
  const before = await fetchPage(port, '/hello/');
  must(
    before === greetingText(now.version),
    `/hello of version ${now.version}, not ${JSON.stringify(before)}`,
  );
  await narrator.step(
    {
      title: `A new version of a layer is published (/hello says: ${before.trim()})`,
      command: `strata layer build ./tree --repo local --name hello-page --version ${next}`,
    },
    () => buildGreeting(story, next),
  );
  await narrator.step(
    { title: 'The fleet is patched, the running appliance too', command: `strata update ${TEMPLATE}` },
    async () => {
      const update = await context.call('update', { templates: [TEMPLATE] });
      const template = update.templates.find((one) => one.name === TEMPLATE);
      must(template && template.held_back === undefined, `${TEMPLATE} to be updated`);
      must(update.appliances.held_back.length === 0, 'no appliance held back');
      narrator.say(
        `generation ${template.from} -> ${template.to}, ${update.appliances.updated} appliances, ${formatDuration(update.elapsed_ms)} in stratad`,
      );
    },
  );
  await narrator.step(
    {
      title: 'All three have it, without a restart',
      command: [
        `curl http://127.0.0.1:${port}/hello/`,
        ...OTHERS.map((name) => `strata run ${name} -- cat ${GREETING}`),
      ].join('\n'),
    },
    async () => {
      const served = await fetchPage(port, '/hello/');
      must(now.server.ended() === null, `nginx of ${FIRST} to be the same process still`);
      must(served === greetingText(next), `/hello of version ${next}, not ${JSON.stringify(served)}`);
      narrator.say(`${FIRST} (running since before): ${served.trim()}`);
      for (const name of OTHERS) {
        const read = await containers.run(name, ['cat', GREETING]);
        must(read === greetingText(next), `version ${next} in ${name}, not ${JSON.stringify(read)}`);
        narrator.say(`${name}: ${read.trim()}`);
      }
    },
  );
}

export async function resetToClean({ context, narrator }: Story, server: Server): Promise<void> {
  await narrator.step(
    { title: 'Stopped, and reset to clean', command: `kill %1\nstrata reset ${FIRST}` },
    async () => {
      await server.stop();
      await context.call('reset', { name: FIRST, keep: [] });
      const { entries } = await context.call('diff', { name: FIRST });
      must(entries.length === 0, `${FIRST} without changes, not ${entries.map((e) => e.path).join(' ')}`);
      narrator.say(`strata diff ${FIRST}: no changes`);
    },
  );
}
