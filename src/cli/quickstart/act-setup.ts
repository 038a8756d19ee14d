/** The first half of the quickstart: repositories, the template and its configuration, an own layer, three appliances. */
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { StrataError } from '../../base/index.ts';
import type { Result } from '../../daemon/contract.ts';
import { countOf, formatBytes } from '../format.ts';
import { must } from './narrator.ts';
import { hostCodename, quickstartDir, readNotes, writeNotes } from './notes.ts';
import { greetingText, PAGE, PAGE_TEXT, SITE, siteText, writeTree } from './site.ts';
import { APPLIANCES, type Story, TEMPLATE } from './story.ts';

const SETUP = 'web-setup';
const GREETING_LAYER = 'hello-page';

export async function prepareRepositories({ context, narrator }: Story): Promise<void> {
  const suite = hostCodename();
  const known = await context.call('repoList', {});
  const source = `apt:${suite}`;
  await narrator.step(
    { title: "This host's Debian archive as a layer repository", command: `strata repo add main ${source}` },
    async () => {
      const main = known.find((repo) => repo.name === 'main');
      if (main && main.kind !== 'apt') {
        throw new StrataError(
          'EXISTS',
          'there is a repository main already, and it is not a Debian archive',
          {
            hint: 'run the quickstart in another place: --root DIR',
          },
        );
      }
      let offered = main?.units ?? (await context.call('repoAdd', { name: 'main', source })).units;
      if (offered === 0) {
        narrator.say('this host has no package lists yet: apt-get update');
        updateLists();
        offered = (await context.call('repoSync', { name: 'main' })).units;
      }
      must(offered > 0, `the suite ${suite} in this host's apt sources`);
      if (main) narrator.reuse();
      narrator.say(
        `${main ? 'already there' : 'added'}: ${countOf(offered, 'unit')} offered; nothing is downloaded that is not used`,
      );
    },
  );
  const dir = join(quickstartDir(context.root), 'layers');
  await narrator.step(
    { title: 'A directory for own layers', command: `strata repo add local ${dir}` },
    async () => {
      const local = known.find((repo) => repo.name === 'local');
      if (local && local.source !== dir) {
        throw new StrataError('EXISTS', `there is a repository local already, at ${local.source}`, {
          hint: 'run the quickstart in another place: --root DIR',
        });
      }
      mkdirSync(dir, { recursive: true });
      if (!local) await context.call('repoAdd', { name: 'local', source: dir, kind: 'dir' });
      if (local) narrator.reuse();
      narrator.say(local ? 'already there' : 'added');
    },
  );
}

/** The package lists of the host, when there are none: what `apt-get update` does. */
function updateLists(): void {
  const update = spawnSync('apt-get', ['-o', 'DPkg::Lock::Timeout=300', 'update'], { encoding: 'utf8' });
  if (update.status === 0) return;
  throw new StrataError('FETCH', `apt-get update failed: ${update.stderr?.trim() ?? update.error?.message}`, {
    hint: "check this host's network and its apt sources, then run the quickstart again",
  });
}

type Template = Result<'templateShow'>;

export async function prepareTemplate(story: Story): Promise<void> {
  const { context, narrator, port } = story;
  const { root } = context;
  const existing = await findTemplate(story);
  if (existing && readNotes(root) === null) {
    throw new StrataError(
      'EXISTS',
      `there is a template ${TEMPLATE} already, and the quickstart did not make it`,
      {
        hint: 'run the quickstart in another place: --root DIR',
      },
    );
  }
  const intact = existing?.explicit.some((line) => line.layer === 'nginx-light') === true;
  if (existing && !intact) {
    throw new StrataError(
      'EXISTS',
      `the template ${TEMPLATE} of an earlier quickstart has lost nginx-light`,
      {
        hint: `\`strata template add ${TEMPLATE} main/nginx-light\` brings it back; or take another --root`,
      },
    );
  }
  await narrator.step(
    {
      title: 'A template: nginx and all that it needs, composed and configured',
      command: `strata template create ${TEMPLATE} nginx-light`,
    },
    async () => {
      // Said before it is made, so that a quickstart that was broken off knows its own template.
      writeNotes(root, { port });
      const template =
        existing ??
        (await context.call('templateCreate', { name: TEMPLATE, layers: ['main/nginx-light'], from: [] }));
      must(
        template.explicit.some((line) => line.layer === 'nginx-light'),
        'nginx-light in the template',
      );
      if (existing) narrator.reuse();
      const layers = template.explicit.length + template.implicit.length;
      narrator.say(
        `${existing ? 'of an earlier run' : 'made'}: ${countOf(layers, 'layer')}, generation ${template.generation}`,
      );
    },
  );
  await configureTemplate(story);
}

async function findTemplate({ context }: Story): Promise<Template | null> {
  const { templates } = await context.call('templateList', {});
  return templates.some((t) => t.name === TEMPLATE)
    ? await context.call('templateShow', { name: TEMPLATE })
    : null;
}

async function configureTemplate(story: Story): Promise<void> {
  const { context, narrator, port } = story;
  const mountpoint = join(quickstartDir(context.root), SETUP);
  await narrator.step(
    {
      title: 'Its configuration, set up in one appliance and then frozen for all',
      command: [
        `strata create ${SETUP} --template ${TEMPLATE} && strata mount ${SETUP} ${mountpoint}`,
        `edit ${mountpoint}${SITE} ${mountpoint}${PAGE}`,
        `strata umount ${SETUP} && strata template freeze ${TEMPLATE} --from ${SETUP} && strata delete ${SETUP}`,
      ].join('\n'),
    },
    async () => {
      await removeAppliance(story, SETUP);
      await context.call('create', { name: SETUP, template: TEMPLATE });
      const isThere = await withMount(story, SETUP, mountpoint, () => {
        if (readText(mountpoint + SITE) === siteText(port) && readText(mountpoint + PAGE) === PAGE_TEXT) {
          return true;
        }
        writeTree(mountpoint, { [SITE]: siteText(port), [PAGE]: PAGE_TEXT });
        return false;
      });
      if (!isThere) await freezeSetup(story);
      await removeAppliance(story, SETUP);
      if (isThere) narrator.reuse();
      narrator.say(`${isThere ? 'of an earlier run: ' : ''}nginx listens on 127.0.0.1:${port}`);
    },
  );
}

async function freezeSetup({ context }: Story): Promise<void> {
  const { entries } = await context.call('diff', { name: SETUP });
  for (const path of [SITE, PAGE]) {
    must(
      entries.some((entry) => entry.path === path),
      `${path} among the changes of ${SETUP}`,
    );
  }
  await context.call('templateFreeze', { name: TEMPLATE, from: SETUP });
  const left = await context.call('diff', { name: SETUP });
  must(left.entries.length === 0, `${SETUP} without changes after the freeze`);
}

async function withMount<R>({ context }: Story, name: string, dir: string, work: () => R): Promise<R> {
  mkdirSync(dir, { recursive: true });
  await context.call('mount', { name, dir });
  try {
    return work();
  } finally {
    await context.call('umount', { target: dir });
  }
}

function readText(file: string): string | null {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return null;
  }
}

/** Builds the greeting when the template lacks it; returns its newest version. */
export async function prepareLayers(story: Story): Promise<number> {
  const { context, narrator } = story;
  const built = await newestGreeting(story);
  const template = await context.call('templateShow', { name: TEMPLATE });
  const inTemplate = template.explicit.some((line) => line.repo === 'local' && line.layer === GREETING_LAYER);
  if (inTemplate) return built;
  const version = Math.max(built, 1);
  await narrator.step(
    {
      title: 'An own layer from a directory, added to the template',
      command: [
        `strata layer build ./tree --repo local --name ${GREETING_LAYER} --version ${version}`,
        `strata template add ${TEMPLATE} local/${GREETING_LAYER}`,
      ].join('\n'),
    },
    async () => {
      if (built === 0) await buildGreeting(story, version);
      const changed = await context.call('templateAdd', {
        name: TEMPLATE,
        layers: [`local/${GREETING_LAYER}`],
      });
      must(
        changed.explicit.some((line) => line.layer === GREETING_LAYER && line.version === String(version)),
        `${GREETING_LAYER} ${version} in the template`,
      );
      narrator.say(`local/${GREETING_LAYER} ${version} holds the page /hello`);
    },
  );
  return version;
}

async function newestGreeting({ context }: Story): Promise<number> {
  const { layers } = await context.call('layerList', { repo: 'local' });
  const versions = layers.filter((unit) => unit.layer === GREETING_LAYER).map((unit) => Number(unit.version));
  return Math.max(0, ...versions.filter((version) => Number.isInteger(version)));
}

export async function buildGreeting({ context }: Story, version: number): Promise<void> {
  const dir = mkdtempSync(join(tmpdir(), 'strata-quickstart-'));
  try {
    writeTree(dir, { 'usr/share/hello/index.html': greetingText(version) });
    await context.call('layerBuild', {
      dir,
      repo: 'local',
      name: GREETING_LAYER,
      version: String(version),
    });
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

/** Three appliances; those of an earlier run are made anew, unless somebody changed files in them. */
export async function provision(story: Story): Promise<void> {
  const { context, narrator } = story;
  const kept: string[] = [];
  const { appliances } = await context.call('list', {});
  for (const name of APPLIANCES) {
    const existing = appliances.find((appliance) => appliance.name === name);
    if (!existing) continue;
    if (existing.template !== TEMPLATE) {
      throw new StrataError(
        'EXISTS',
        `there is an appliance ${name} already, of template ${existing.template}`,
        {
          hint: 'run the quickstart in another place: --root DIR',
        },
      );
    }
    if (existing.mounts.length > 0) {
      throw new StrataError('BUSY', `appliance ${name} is in use at ${existing.mounts.join(' ')}`, {
        hint: `stop what runs in it, or \`strata umount ${name}\``,
      });
    }
    const { entries } = await context.call('diff', { name });
    if (entries.length > 0 && name !== APPLIANCES[0]) kept.push(name);
    else await context.call('delete', { names: [name] });
  }
  await narrator.step(
    {
      title: 'Three appliances of the template',
      command: `strata create web --template ${TEMPLATE} --count 3`,
    },
    async () => {
      if (kept.length === 0) await context.call('create', { name: 'web', template: TEMPLATE, count: 3 });
      else {
        for (const name of APPLIANCES)
          if (!kept.includes(name)) await context.call('create', { name, template: TEMPLATE });
      }
      const now = (await context.call('list', {})).appliances.filter((a) => a.template === TEMPLATE);
      for (const name of APPLIANCES)
        must(
          now.some((a) => a.name === name && a.held_back === null),
          `an appliance ${name}`,
        );
      const first = await context.call('show', { name: APPLIANCES[0] });
      const own = first.private_bytes ?? 0;
      narrator.say(`${APPLIANCES.join(', ')}, with ${formatBytes(own)} of private data in ${APPLIANCES[0]}`);
      if (kept.length > 0) narrator.say(`${kept.join(', ')} kept: changed since the last run`);
    },
  );
}

async function removeAppliance({ context }: Story, name: string): Promise<void> {
  const { appliances } = await context.call('list', {});
  const existing = appliances.find((appliance) => appliance.name === name);
  if (!existing) return;
  for (const target of existing.mounts) await context.call('umount', { target, force: true });
  await context.call('delete', { names: [name] });
}
