/**
 * The resolver over the host's whole Debian archive: load, index, and requests, first and later, beside what apt decides on an empty
 * machine (its own decision only: --print-uris with a warm cache). Usage: npm run bench -- resolver
 * Writes the section "Resolver" of docs/performance.md.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { buildUniverse, type ResolveRequest, type Universe } from '../src/resolver/index.ts';
import { aptWouldInstall, readArchive } from '../src/resolver/test-support-archive.ts';
import { machineLine, median, writeSection } from './support/report.ts';

const RUNS = 5;
const HUGE = 'gnome kde-full libreoffice texlive-full postgresql wine qemu-system'.split(' ');
const REQUESTS: { title: string; layers: string[]; recommends?: boolean }[] = [
  { title: 'nginx', layers: ['nginx'] },
  { title: 'apache2', layers: ['apache2'] },
  { title: 'mariadb-server', layers: ['mariadb-server'] },
  { title: 'samba', layers: ['samba'] },
  { title: 'openssh-server', layers: ['openssh-server'] },
  { title: 'xfce4', layers: ['xfce4'] },
  { title: 'xfce4, with Recommends', layers: ['xfce4'], recommends: true },
  { title: 'gnome, kde-full, libreoffice, texlive-full, postgresql, wine, qemu-system', layers: HUGE },
];

function timed<T>(work: () => T): { value: T; ms: number } {
  const start = performance.now();
  const value = work();
  return { value, ms: performance.now() - start };
}

function solvedUnits(universe: Universe, request: ResolveRequest): string[] {
  const result = universe.resolve(request);
  if (!result.ok) throw new Error(result.explanation.summary);
  return result.units.map(({ unit }) => `${unit.layer} ${unit.version}`);
}

const ms = (value: number): string => (value < 10 ? value.toFixed(1) : Math.round(value).toString());
const directory = mkdtempSync(join(tmpdir(), 'strata-bench-'));
try {
  const load = timed(readArchive);
  const builds = Array.from({ length: RUNS }, () => timed(() => buildUniverse(load.value)));
  const fresh = builds[0]!.value;
  const base = fresh.resolve({ wishes: [{ layer: 'base-files' }] });
  const baseNames = base.ok
    ? base.units.filter((s) => s.explicit || s.reason?.relation === 'essential').map((s) => s.unit.layer)
    : [];
  const rows = REQUESTS.map(({ title, layers, recommends = false }) => {
    const request = { wishes: layers.map((layer) => ({ layer })), recommends };
    // Each first request on a universe of its own: nothing of it is parsed yet.
    const universe = buildUniverse(load.value);
    const first = timed(() => solvedUnits(universe, request));
    const later = median(Array.from({ length: RUNS }, () => timed(() => solvedUnits(universe, request)).ms));
    aptWouldInstall(['base-files'], directory);
    const apt = timed(() => aptWouldInstall([...layers, ...baseNames], directory, recommends));
    const ours = new Set(first.value);
    const onlyOurs = [...ours].filter((unit) => !apt.value.has(unit)).length;
    const onlyApt = [...apt.value].filter((unit) => !ours.has(unit)).length;
    return `| ${title} | ${ours.size} | ${ms(first.ms)} | ${ms(later)} | ${apt.value.size} | ${onlyOurs} / ${onlyApt} | ${ms(apt.ms)} |`;
  });
  const lines = [
    machineLine(),
    '',
    `${fresh.size} units. Read and parsed from the host's package lists: ${ms(load.ms)} ms; indexed: ${ms(median(builds.map((b) => b.ms)))} ms.`,
    '',
    '| request | units | first, ms | later, ms | apt: packages | only ours / only apt | apt, ms |',
    '| --- | ---: | ---: | ---: | ---: | ---: | ---: |',
    ...rows,
    '',
    'Differences from apt are explained in formats/resolution.md.',
  ];
  console.log(lines.join('\n'));
  writeSection(
    resolve(import.meta.dirname, '../docs/performance.md'),
    'Resolver',
    'npm run bench -- resolver',
    lines,
  );
} finally {
  rmSync(directory, { recursive: true, force: true });
}
