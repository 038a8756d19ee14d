/**
 * The paper's tables 1, 2 and 3 (provisioning, updating, storage) on five appliances from the host's Debian archive, beside what one
 * would do instead: mmdebstrap for each machine, cp of an image, dpkg -i on each machine. Rows are interleaved; medians are given.
 * Usage: npm run bench -- tables [--quick] [--only=NAME] [--runs=N] [--keep]     writes the section "Tables" of docs/performance.md
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { machineLine, median, spread, writeSection } from './support/report.ts';

const project = resolve(import.meta.dirname, '..');
const quick = process.argv.includes('--quick');
const runs = quick ? 1 : Number(/--runs=(\d+)/.exec(process.argv.join(' '))?.[1] ?? 3);
const work = mkdtempSync(join(process.env['STRATA_BENCH_DIR'] ?? '/var/tmp', 'strata-bench-'));
const root = join(work, 'root');

const only = /--only=(\S+)/.exec(process.argv.join(' '))?.[1];
const APPLIANCES: { name: string; layers: string[]; recommends: boolean }[] = [
  { name: 'apache', layers: ['apache2'], recommends: false },
  { name: 'mariadb', layers: ['mariadb-server'], recommends: false },
  { name: 'samba', layers: ['samba'], recommends: false },
  { name: 'ssh', layers: ['openssh-server'], recommends: false },
  { name: 'desktop', layers: ['xfce4'], recommends: true },
].filter(({ name }) => (only === undefined ? !(quick && name === 'desktop') : name === only));

interface Timed {
  // biome-ignore lint/suspicious/noExplicitAny: the JSON of the command
  value: any;
  ms: number;
}

function strata(...args: string[]): Timed {
  const begin = performance.now();
  const child = spawnSync(join(project, 'bin/strata'), ['--root', root, '--json', ...args], {
    encoding: 'utf8',
    maxBuffer: 1 << 28,
  });
  const ms = performance.now() - begin;
  if (child.status !== 0)
    throw new Error(`strata ${args.join(' ')}: exit ${child.status}\n${child.stdout}${child.stderr}`);
  return { value: JSON.parse(child.stdout), ms };
}

function timed(file: string, args: string[], quiet = true): number {
  const begin = performance.now();
  const child = spawnSync(file, args, {
    encoding: 'utf8',
    stdio: quiet ? 'pipe' : 'inherit',
    maxBuffer: 1 << 28,
  });
  if (child.status !== 0) throw new Error(`${file} ${args.join(' ')}: exit ${child.status}\n${child.stderr}`);
  return performance.now() - begin;
}

function allocatedBytes(...paths: string[]): number {
  return paths
    .filter(existsSync)
    .reduce(
      (sum, path) =>
        sum + Number(execFileSync('du', ['-s', '-B1', path], { encoding: 'utf8' }).split('\t')[0]),
      0,
    );
}

const note = (text: string) => process.stderr.write(`bench: ${text}\n`);
const seconds = (ms: number) => (ms < 100 ? `${ms.toFixed(1)} ms` : `${(ms / 1000).toFixed(2)} s`);
const mib = (bytes: number) => `${(bytes / 2 ** 20).toFixed(bytes < 10 * 2 ** 20 ? 2 : 0)} MiB`;
const codename = execFileSync('sh', ['-c', '. /etc/os-release; echo $VERSION_CODENAME'], {
  encoding: 'utf8',
}).trim();

/** The host's own package sources as a one-line-style list, for mmdebstrap. */
function hostSources(): string {
  const lines = execFileSync(
    'apt-get',
    ['indextargets', '--format', '$(CREATED_BY) $(SITE) $(RELEASE) $(COMPONENT)'],
    { encoding: 'utf8' },
  );
  return [...new Set(lines.split('\n'))]
    .map((line) => line.split(' '))
    .filter(([by, , release]) => by === 'Packages' && release!.startsWith(codename))
    .map(
      ([, site, release, component, key]) =>
        `deb ${key ? `[signed-by="${key}"] ` : ''}${site} ${release} ${component}`,
    )
    .join('\n');
}

interface Row {
  name: string;
  layers: number;
  firstMs: number;
  template: { total: number[]; resolve: number[]; compose: number[]; configure: number[] };
  createMs: number[];
  mmdebstrapMs: number[];
  copyMs: number[];
  imageBytes: number;
  layerUnits: Set<string>;
}

function phase(value: Record<string, unknown>, key: string): number {
  const timings = value['timings'] as Record<string, number> | undefined;
  return timings?.[key] ?? Number.NaN;
}

/** Table 1: a template from layers, an appliance from a template; a machine by mmdebstrap, a machine by cp of an image. */
function provision(): Row[] {
  const rows: Row[] = [];
  strata('repo', 'add', 'main', `apt:${codename}`);
  for (const { name, layers, recommends } of APPLIANCES) {
    note(`${name}: mirroring and first template`);
    const options = recommends ? ['--recommends'] : [];
    const first = strata('template', 'create', name, ...layers, ...options);
    const row: Row = {
      name,
      layers: first.value.explicit.length + first.value.implicit.length,
      firstMs: first.ms,
      template: { total: [], resolve: [], compose: [], configure: [] },
      createMs: [],
      mmdebstrapMs: [],
      copyMs: [],
      imageBytes: 0,
      layerUnits: new Set(
        [...first.value.explicit, ...first.value.implicit].map(
          (l: { repo: string; layer: string; version: string }) => `${l.repo}/${l.layer}_${l.version}`,
        ),
      ),
    };
    const image = join(work, `image-${name}`);
    for (let run = 0; run < runs; run++) {
      note(`${name}: run ${run + 1} of ${runs}`);
      const again = strata('template', 'create', `again-${run}`, ...layers, ...options);
      row.template.total.push(again.ms);
      row.template.resolve.push(phase(again.value, 'resolve_ms'));
      row.template.compose.push(phase(again.value, 'compose_ms'));
      row.template.configure.push(phase(again.value, 'configure_ms'));
      strata('template', 'delete', `again-${run}`);
      if (run === 0 || !recommends) {
        rmSync(image, { recursive: true, force: true });
        const list = join(work, 'sources.list');
        writeFileSync(list, hostSources());
        row.mmdebstrapMs.push(
          timed('mmdebstrap', [
            '--quiet',
            '--variant=minbase',
            '--format=directory',
            `--aptopt=Apt::Install-Recommends "${recommends}"`,
            `--include=${layers.join(',')}`,
            codename,
            image,
            list,
          ]),
        );
        row.imageBytes = allocatedBytes(image);
      }
      rmSync(`${image}.copy`, { recursive: true, force: true });
      row.copyMs.push(timed('cp', ['-a', image, `${image}.copy`]));
      rmSync(`${image}.copy`, { recursive: true, force: true });
      const created = strata('create', `${name}-run${run}`, '--template', name, '--count', '100');
      row.createMs.push(created.ms / 100);
      strata('delete', ...created.value.appliances.map((a: { name: string }) => a.name));
    }
    rmSync(image, { recursive: true, force: true });
    rows.push(row);
  }
  return rows;
}

/** Table 2: a new version of tar for 50 appliances of five templates, ten of them mounted; dpkg -i on one plain machine. */
function update(rows: Row[]): { strataMs: number[]; dpkgMs: number[]; appliances: number; mounted: number } {
  let appliances = 0;
  let mounted = 0;
  for (const { name } of rows) {
    strata('create', name, '--template', name, '--count', '10');
    appliances += 10;
    for (const i of [1, 2]) {
      const dir = join(work, `view-${name}-${i}`);
      mkdirSync(dir);
      strata('mount', `${name}-${i}`, dir);
      timed('find', [dir, '-xdev', '-type', 'f', '-name', 'nothing']);
      mounted++;
    }
  }
  const debs = join(work, 'debs');
  mkdirSync(debs);
  execFileSync(
    'sh',
    [
      '-c',
      `cd ${debs} && apt-get download -q tar && dpkg-deb -R tar_*.deb tree && cp tree/DEBIAN/control control`,
    ],
    { stdio: 'pipe' },
  );
  strata('repo', 'add', 'patches', join(work, 'patches'));
  const plain = join(work, 'plain');
  const list = join(work, 'sources.list');
  timed('mmdebstrap', ['--quiet', '--variant=minbase', '--format=directory', codename, plain, list]);
  const strataMs: number[] = [];
  const dpkgMs: number[] = [];
  for (let run = 0; run < (quick ? 1 : 5); run++) {
    execFileSync(
      'sh',
      [
        '-c',
        `cd ${debs} && sed 's/^Version: .*/&+strata${run}/' control > tree/DEBIAN/control && echo ${run} > tree/usr/share/doc/tar/PATCH && dpkg-deb -Zgzip -b tree new.deb`,
      ],
      { stdio: 'pipe' },
    );
    strata('layer', 'import', join(debs, 'new.deb'), '--repo', 'patches');
    const result = strata('update');
    if (result.value.appliances.updated !== appliances)
      throw new Error(`updated ${JSON.stringify(result.value.appliances)}`);
    strataMs.push(result.ms);
    execFileSync('cp', [join(debs, 'new.deb'), join(plain, 'new.deb')]);
    dpkgMs.push(timed('chroot', [plain, 'dpkg', '-i', '/new.deb']));
  }
  return { strataMs, dpkgMs, appliances, mounted };
}

function storageTable(rows: Row[]): string[] {
  const repo = join(root, 'repos/main');
  const unitBytes = new Map<string, number>();
  for (const dir of readdirSync(repo))
    if (dir.includes('_')) unitBytes.set(`main/${dir}`, allocatedBytes(join(repo, dir, 'filesystem')));
  const users = new Map<string, number>();
  for (const row of rows) for (const unit of row.layerUnits) users.set(unit, (users.get(unit) ?? 0) + 1);
  const sum = (units: Iterable<string>) =>
    [...units].reduce((total, unit) => total + (unitBytes.get(unit) ?? 0), 0);
  const lines = [
    '| appliance | layers | its layers | shared with another | only here | a plain machine (du) |',
    '| --- | --- | --- | --- | --- | --- |',
  ];
  for (const row of rows) {
    const all = [...row.layerUnits];
    lines.push(
      `| ${row.name} | ${row.layers} | ${mib(sum(all))} | ${mib(sum(all.filter((u) => users.get(u)! > 1)))} | ${mib(sum(all.filter((u) => users.get(u) === 1)))} | ${mib(row.imageBytes)} |`,
    );
  }
  const strataRepo = allocatedBytes(join(root, 'repos'));
  const templates = allocatedBytes(join(root, 'templates'));
  const fifty = allocatedBytes(join(root, 'appliances'));
  const plainSum = rows.reduce((total, row) => total + row.imageBytes, 0);
  const largest = rows.at(-1)!;
  lines.push(
    '',
    '| appliances | Strata: repository + templates + appliances | plain machines |',
    '| --- | --- | --- |',
    `| 1 (${largest.name}; the repository of all ${rows.length} kinds) | ${mib(strataRepo + templates + fifty / (10 * rows.length))} | ${mib(largest.imageBytes)} |`,
    `| ${rows.length}, one of each | ${mib(strataRepo + templates + fifty / 10)} | ${mib(plainSum)} |`,
    `| ${10 * rows.length}, ten of each | ${mib(strataRepo + templates + fifty)} | ${mib(plainSum * 10)} (ten times the line above) |`,
    '',
    `The ${10 * rows.length} appliances themselves take ${mib(fifty)}, ${(fifty / (10 * rows.length) / 1024).toFixed(0)} KiB each.`,
  );
  return lines;
}

function cleanUp(): void {
  spawnSync(join(project, 'bin/strata'), ['--root', root, 'daemon', 'stop', '--force']);
  spawnSync('sh', ['-c', `grep -o ' ${work}/[^ ]*' /proc/self/mounts | sort -r | xargs -r umount -l`]);
  if (!process.argv.includes('--keep')) rmSync(work, { recursive: true, force: true });
}

const title = only === undefined ? 'Tables' : `Tables: ${only}`;
const command = ['tables', ...process.argv.slice(2)].join(' ');
try {
  const rows = provision();
  note('updating');
  const updates = update(rows);
  const create = rows.flatMap((row) => row.createMs);
  const lines = [
    `${machineLine()} ${runs} interleaved runs; median (min to max).`,
    '',
    '### Table 1: provisioning',
    '',
    '| appliance | layers | template, first time (download, convert, configure) | template from mirrored layers | of which resolve | compose | configure | **create an appliance** (of 100) | instead: mmdebstrap | instead: cp -a of an image |',
    '| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |',
    ...rows.map(
      (r) =>
        `| ${r.name} | ${r.layers} | ${seconds(r.firstMs)} | ${spread(r.template.total, seconds)} | ${seconds(median(r.template.resolve))} | ${seconds(median(r.template.compose))} | ${seconds(median(r.template.configure))} | **${spread(r.createMs, seconds)}** | ${spread(r.mmdebstrapMs, seconds)} | ${spread(r.copyMs, seconds)} |`,
    ),
    '',
    `Creating an appliance takes ${seconds(median(create))}; cp of the image takes ${(median(rows.flatMap((r) => r.copyMs)) / median(create)).toFixed(0)} times as long (median of all rows), mmdebstrap ${(median(rows.flatMap((r) => r.mmdebstrapMs)) / median(create)).toFixed(0)} times. The paper: 0.002 s against 174 to 355 s.`,
    '',
    '### Table 2: a new version of tar',
    '',
    '| | time |',
    '| --- | --- |',
    `| \`strata update\`, ${updates.appliances} appliances of ${rows.length} templates, ${updates.mounted} of them mounted | ${spread(updates.strataMs, seconds)} in all, ${seconds(median(updates.strataMs) / updates.appliances)} each |`,
    `| \`dpkg -i\` in one plain minimal machine that already runs and has the file | ${spread(updates.dpkgMs, seconds)} each |`,
    '',
    '### Table 3: storage',
    '',
    ...storageTable(rows),
  ];
  writeSection(join(project, 'docs/performance.md'), title, `npm run bench -- ${command}`, lines);
  note('docs/performance.md is written');
} finally {
  cleanUp();
}
