/** fsck: finds each planted damage and says what to do, finds nothing on a sound state root, and mends what is safe. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readlinkSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { test } from 'node:test';
import { noProgress } from '../../base/index.ts';
import { makeWorld, type World } from '../fleet.test-support.ts';

async function inWorld(body: (w: World) => Promise<void>): Promise<void> {
  const w = await makeWorld();
  try {
    await w.build('base', '1', { 'etc/motd': 'base\n' });
    await w.build('tool', '1', { 'usr/bin/tool': '1' }, { depends: 'base' });
    await w.build('other', '1', { 'usr/bin/other': '1' });
    await w.fleet.templateCreate({ name: 't', layers: ['tool'], from: [] }, noProgress);
    await w.fleet.templateCreate({ name: 'u', layers: ['base'], from: [] }, noProgress);
    await w.fleet.create({ name: 'a', template: 't', count: 3 }, noProgress);
    await w.fleet.create({ name: 'own', template: 't', layers: ['other'] }, noProgress);
    const etc = join(w.root, 'appliances/a-1/private/etc');
    mkdirSync(etc, { recursive: true });
    writeFileSync(join(etc, 'motd'), 'mine');
    await w.fleet.templateFreeze({ name: 't', from: 'a-1' }, noProgress);
    await body(w);
  } finally {
    await w.remove();
  }
}

const fsck = (w: World, options: { deep?: boolean; repair?: boolean } = {}) =>
  w.fleet.fsck(options, noProgress);

interface Damage {
  name: string;
  plant(w: World): void | Promise<void>;
  /** Among the problems, as `OBJECT: PROBLEM`. */
  found: RegExp;
  deep?: boolean;
  /** --repair mends it. */
  mends?: boolean;
}

const at = (w: World, ...parts: string[]) => join(w.root, ...parts);
const macOf = async (w: World, name: string) => (await w.fleet.show(name)).mac;

const DAMAGES: Damage[] = [
  {
    name: 'a unit without metadata',
    plant: (w) => rmSync(join(w.dir, 'units/other_1/metadata')),
    found: /unit local\/other 1: .*no metadata/,
  },
  {
    name: 'a unit under a wrong name',
    plant: (w) => renameSync(join(w.dir, 'units/other_1'), join(w.dir, 'units/other_2')),
    found:
      /unit local\/other 2: .*metadata of other 1[\s\S]*appliance own, generation \d+: its unit local\/other 1 is not on this host/,
  },
  {
    name: 'a unit without an index',
    plant: (w) => rmSync(join(w.dir, 'units/tool_1/index')),
    found: /unit local\/tool 1: its index is missing/,
    mends: true,
  },
  {
    name: 'a unit with a damaged index',
    plant: (w) => writeFileSync(join(w.dir, 'units/tool_1/index'), 'rubbish'),
    found: /unit local\/tool 1: its index is damaged/,
    mends: true,
  },
  {
    name: 'changed content of a unit',
    plant: (w) => writeFileSync(join(w.dir, 'units/tool_1/filesystem/usr/bin/tool'), 'X'),
    found: /unit local\/tool 1: \/usr\/bin\/tool: (modification time|content) changed/,
    deep: true,
  },
  {
    name: 'a damaged database',
    plant: (w) => appendFileSync(join(w.dir, 'units/Layers'), '\nLayer: bogus\n'),
    found: /repository local: the database Layers is damaged/,
    mends: true,
  },
  {
    name: 'a damaged repo.json',
    plant: (w) => writeFileSync(at(w, 'repos/local/repo.json'), '{"name":'),
    found: /repository local: .*JSON/,
  },
  {
    name: 'a template whose LDF is no LDF',
    plant: (w) => {
      rmSync(at(w, 'templates/u/ldf'));
      writeFileSync(at(w, 'templates/u/ldf'), 'what is this supposed to be\n');
    },
    found: /template u: .*ldf/,
  },
  {
    name: 'a link current that leads nowhere',
    plant: (w) => {
      rmSync(at(w, 'templates/u/current'));
      symlinkSync('generations/7', at(w, 'templates/u/current'));
    },
    found: /template u: its link current leads to "generations\/7"/,
  },
  {
    name: 'a generation that was never committed',
    plant: (w) => mkdirSync(at(w, 'templates/u/generations/9')),
    found: /template u: generation 9 was never committed/,
    mends: true,
  },
  {
    name: 'a stack that is no JSON',
    plant: (w) => writeFileSync(at(w, 'templates/u/generations/1/stack.json'), '{'),
    found: /template u, generation 1: .*not JSON/,
  },
  {
    name: 'a config layer without an index',
    plant: (w) => rmSync(at(w, 'templates/t/generations/2/config.index')),
    found: /template t, generation 2: its config layer has no index/,
    mends: true,
  },
  {
    name: 'a missing config layer',
    plant: (w) => rmSync(at(w, 'templates/t/generations/2/config'), { recursive: true }),
    found: /template t, generation 2: its config layer is missing/,
  },
  {
    name: 'an appliance whose state is no JSON',
    plant: (w) => writeFileSync(at(w, 'appliances/a-1/state.json'), 'x'),
    found: /appliance a-1: .*not JSON/,
  },
  {
    name: 'an appliance of a template that there is not',
    plant: async (w) => {
      const state = { format: 1, name: 'a-1', mac: await macOf(w, 'a-1'), template: 'gone', own: false };
      writeFileSync(at(w, 'appliances/a-1/state.json'), JSON.stringify({ ...state, heldBack: null }));
    },
    found: /appliance a-1: its template gone does not exist/,
  },
  {
    name: 'an appliance without a private layer',
    plant: (w) => rmSync(at(w, 'appliances/a-2/private'), { recursive: true }),
    found: /appliance a-2: its private layer is missing/,
  },
  {
    name: 'a directory that nobody refers to',
    plant: (w) => mkdirSync(at(w, 'appliances/orphan/private'), { recursive: true }),
    found: /appliance orphan: .*nothing refers to it/,
    mends: true,
  },
  {
    name: 'an internal attribute that is not known',
    plant: (w) => {
      writeFileSync(at(w, 'appliances/a-2/private/file'), '');
      execFileSync('setfattr', [
        '-n',
        'trusted.strata.bogus',
        '-v',
        '1',
        at(w, 'appliances/a-2/private/file'),
      ]);
    },
    found: /appliance a-2: private\/file: .*trusted\.strata\.bogus/,
  },
  {
    name: 'a file in a whiteout set',
    plant: (w) => {
      mkdirSync(at(w, 'appliances/a-2/whiteouts/local/base_1'), { recursive: true });
      writeFileSync(at(w, 'appliances/a-2/whiteouts/local/base_1/file'), '');
    },
    found: /appliance a-2: whiteouts\/local\/base_1\/file: .*neither a whiteout/,
  },
  {
    name: 'a missing link of a machine',
    plant: async (w) => rmSync(at(w, 'machines', await macOf(w, 'a-3'))),
    found: /appliance a-3: machines\/.* is missing/,
    mends: true,
  },
  {
    name: 'a link of a machine to another appliance',
    plant: async (w) => {
      const link = at(w, 'machines', await macOf(w, 'a-3'));
      rmSync(link);
      symlinkSync('../appliances/a-2', link);
    },
    found: /appliance a-3: machines\/.* leads to/,
    mends: true,
  },
  {
    name: 'a link of a machine that there is not',
    plant: (w) => symlinkSync('../appliances/none', at(w, 'machines/02:00:00:00:00:01')),
    found: /machines\/02:00:00:00:00:01: it leads to/,
    mends: true,
  },
  {
    name: 'two appliances with one address',
    plant: async (w) => {
      const state = { format: 1, name: 'a-1', mac: await macOf(w, 'a-2'), template: 't', own: false };
      writeFileSync(at(w, 'appliances/a-1/state.json'), JSON.stringify({ ...state, heldBack: null }));
    },
    found: /appliance a-2: appliance a-1 has the same MAC address/,
  },
  {
    name: 'a catalog that says something else',
    plant: (w) => {
      const db = new DatabaseSync(at(w, 'catalog.sqlite'));
      db.exec("UPDATE appliances SET template = 'u' WHERE name = 'a-1'");
      db.close();
    },
    found: /catalog\.sqlite: it says of appliance a-1: .*@u; the files say: .*@t/,
    mends: true,
  },
  {
    name: 'an unfinished command',
    plant: (w) =>
      writeFileSync(at(w, 'journal/x.json'), '{"format":1,"op":"create","steps":[],"followUps":[]}'),
    found: /journal\/x\.json: create has committed but is not complete/,
  },
  {
    name: 'a recorded mount that is none',
    plant: async (w) => {
      await w.fleet.mount({ name: 'a-1', dir: join(w.dir, 'm') });
      const boot = execFileSync('cat', ['/proc/sys/kernel/random/boot_id'], { encoding: 'utf8' }).trim();
      mkdirSync(at(w, 'run/mounts'), { recursive: true });
      const record = { boot, id: 'a-1', mountpoint: join(w.dir, 'm'), vlfs: { stack: 'ab.json' } };
      writeFileSync(at(w, 'run/mounts/m.json'), JSON.stringify(record));
    },
    found: /mount .*\/m: strata-fs remembers appliance a-1 there, but nothing is mounted/,
  },
  {
    name: 'a mount that shows an older stack',
    plant: async (w) => {
      await w.fleet.mount({ name: 'a-1', dir: join(w.dir, 'm') });
      w.plane.mounts[0]!.stackKey = 'old';
    },
    found: /appliance a-1: its mount shows an older stack/,
  },
];

test('a sound state root is clean, also deep down', () =>
  inWorld(async (w) => {
    const result = await fsck(w, { deep: true });
    assert.deepEqual(result.problems, []);
    assert.ok(result.clean);
    const { elapsed_ms: _, ...rest } = result;
    assert.deepEqual(rest.checked, { repositories: 1, units: 3, generations: 4, appliances: 4, mounts: 0 });
  }));

for (const { name, plant, found, deep = false, mends = false } of DAMAGES) {
  test(`finds ${name}`, () =>
    inWorld(async (w) => {
      await plant(w);
      const before = picture(w.root);
      const result = await fsck(w, { deep });
      assert.deepEqual(picture(w.root), before);
      const text = result.problems.map(({ object, problem }) => `${object}: ${problem}`).join('\n');
      assert.match(text, found);
      assert.ok(result.problems.every(({ remedy }) => remedy !== ''));
      assert.equal(result.clean, false);
      if (!mends) return;
      const repaired = await fsck(w, { repair: true });
      assert.ok(repaired.clean, JSON.stringify(repaired.problems));
      assert.ok(repaired.problems.some((problem) => problem.repaired));
      assert.deepEqual((await fsck(w, { deep: true })).problems, []);
    }));
}

/** Names and links below a directory. */
function picture(dir: string): string[] {
  return readdirSync(dir, { recursive: true, withFileTypes: true })
    .filter((entry) => !entry.name.startsWith('catalog.sqlite'))
    .map((entry) => {
      const path = join(entry.parentPath, entry.name);
      return entry.isSymbolicLink() ? `${path} -> ${readlinkSync(path)}` : path;
    })
    .sort();
}

test('warnings do not make a state unsound', () =>
  inWorld(async (w) => {
    await w.build('base', '2', { 'etc/motd': 'base 2\n' });
    await w.fleet.update({}, noProgress);
    await w.fleet.layerRemove({ repo: 'local', layer: 'base', version: '1' });
    const { problems, clean } = await fsck(w);
    assert.ok(clean);
    assert.ok(problems.length > 0 && problems.every(({ severity }) => severity === 'warning'));
    await w.fleet.gc({ keep: 1 }, noProgress);
    assert.ok(existsSync(join(w.dir, 'units/base_2')));
  }));
