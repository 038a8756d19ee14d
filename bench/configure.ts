/**
 * Configuring a fresh template on the layered file system beside the same configuration on a plain directory that holds the same files.
 * Interleaved.
 * Usage: npm run bench -- configure [LAYER...]     writes the section "Configuring a template" of docs/performance.md
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { configureTemplate } from '../src/fleet/configure/index.ts';
import { machineLine, median, spread, writeSection } from './support/report.ts';

const project = resolve(import.meta.dirname, '..');
const layers =
  process.argv.slice(2).length > 0 ? process.argv.slice(2) : ['nginx-light', 'mariadb-server', 'samba'];
const RUNS = 3;
const work = mkdtempSync(join(process.env['STRATA_BENCH_DIR'] ?? '/var/tmp', 'strata-bench-'));
const root = join(work, 'root');
const codename = execFileSync('sh', ['-c', '. /etc/os-release; echo $VERSION_CODENAME'], {
  encoding: 'utf8',
}).trim();

// biome-ignore lint/suspicious/noExplicitAny: the JSON of the command
function strata(...args: string[]): any {
  const child = spawnSync(join(project, 'bin/strata'), ['--root', root, '--json', ...args], {
    encoding: 'utf8',
    maxBuffer: 1 << 28,
  });
  if (child.status !== 0) throw new Error(`strata ${args.join(' ')}: exit ${child.status}\n${child.stdout}`);
  return JSON.parse(child.stdout);
}

interface Line {
  repo: string;
  layer: string;
  version: string;
}

/** The files of all units in one plain directory, then the same configuration; milliseconds of the configuration. */
async function plainDirectory(units: Line[], explicit: Set<string>): Promise<number> {
  const rootfs = join(work, 'plain');
  mkdirSync(rootfs);
  try {
    const dirs = units.map((unit) => join(root, 'repos', unit.repo, `${unit.layer}_${unit.version}`));
    const base = dirs.findIndex((dir) => dir.includes('/base-files_'));
    dirs.unshift(...dirs.splice(base, 1));
    for (const dir of dirs) execFileSync('cp', ['-a', `${dir}/filesystem/.`, rootfs]);
    const result = await configureTemplate({
      root,
      rootfs,
      name: 'plain',
      changes: units.map((unit, i) => ({ kind: 'new', dir: dirs[i]!, auto: !explicit.has(unit.layer) })),
      previousStatus: null,
    });
    if (!result.ok) throw new Error(result.output);
    return result.elapsedMs;
  } finally {
    rmSync(rootfs, { recursive: true, force: true });
  }
}

const lines = [
  '',
  '| template | layers | on the layered file system | on a plain directory | ratio |',
  '| --- | ---: | ---: | ---: | ---: |',
];
const seconds = (ms: number) => `${(ms / 1000).toFixed(2)} s`;
try {
  strata('repo', 'add', 'main', `apt:${codename}`);
  for (const layer of layers) {
    const first = strata('template', 'create', layer, layer);
    const units: Line[] = [...first.explicit, ...first.implicit];
    const explicit = new Set<string>(first.explicit.map((line: Line) => line.layer));
    const ours: number[] = [];
    const plain: number[] = [];
    for (let run = 0; run < RUNS; run++) {
      process.stderr.write(`bench: ${layer}, run ${run + 1} of ${RUNS}\n`);
      ours.push(strata('template', 'create', `again-${run}`, layer).timings.configure_ms);
      strata('template', 'delete', `again-${run}`);
      plain.push(await plainDirectory(units, explicit));
    }
    lines.push(
      `| ${layer} | ${units.length} | ${spread(ours, seconds)} | ${spread(plain, seconds)} | ${(median(ours) / median(plain)).toFixed(2)} |`,
    );
  }
  lines.push(
    '',
    'Both run the same maintainer scripts by dpkg in the same container; the left column also indexes the config layer.',
  );
  writeSection(join(project, 'docs/performance.md'), 'Configuring a template', 'npm run bench -- configure', [
    machineLine(),
    ...lines,
  ]);
} finally {
  spawnSync(join(project, 'bin/strata'), ['--root', root, 'daemon', 'stop', '--force']);
  rmSync(work, { recursive: true, force: true });
}
