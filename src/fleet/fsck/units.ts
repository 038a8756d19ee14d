/** Repositories and layer units: configuration, databases and caches, and for each unit its metadata, tree and index (deep: its content). */
import { createHash } from 'node:crypto';
import { closeSync, openSync, readFileSync, readSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { asStrataError } from '../../base/index.ts';
import {
  openUnit,
  openUnitIndex,
  unitIndexFile,
  unitTreeDir,
  verifyUnit,
  writeTreeIndex,
} from '../../layer/index.ts';
import { type Repository, readConfig } from '../../repository/index.ts';
import { isThere, namesIn } from '../state/files.ts';
import { forgetUnitIndexes } from '../templates/compose.ts';
import { examine, type Finding, type FsckRun, report } from './run.ts';

const CACHE_FORMAT = 'strata-units-1\n';
/** Problems that are named of one unit. */
const NAMED = 20;

export async function checkRepositories(run: FsckRun): Promise<void> {
  const { context } = run;
  const repos = join(context.root, 'repos');
  for (const name of namesIn(repos)) {
    if (name.startsWith('.')) continue;
    await examine(run, () => checkConfig(run, repos, name));
  }
  for (const repository of context.repositories.all()) {
    run.checked.repositories++;
    await examine(run, () => checkDatabases(run, repository));
    await checkUnits(run, repository);
  }
}

function checkConfig(run: FsckRun, repos: string, name: string): Finding[] {
  const dir = join(repos, name);
  if (!statSync(dir, { throwIfNoEntry: false })?.isDirectory()) return [];
  const object = `repository ${name}`;
  try {
    if (readConfig(run.context.root, name) !== null) return [];
  } catch (error) {
    return [
      {
        object,
        problem: asStrataError(error).message,
        remedy: `repair ${dir}/repo.json, or add the repository again`,
      },
    ];
  }
  // The source of a `dir` repository may stand here, also after the repository was removed.
  const isSource = run.context.repositories
    .all()
    .some(({ unitsDir }) => `${unitsDir}/`.startsWith(`${dir}/`));
  if (isSource || namesIn(dir).some((one) => isThere(join(dir, one, 'metadata')))) return [];
  return [
    {
      object,
      problem: `${dir} has no repo.json, so it is no repository`,
      remedy: 'nothing refers to it; delete it',
      severity: 'warning',
    },
  ];
}

/** The first bytes of a file, or null when there is none. */
function headOf(file: string, bytes: number): string | null {
  try {
    const fd = openSync(file, 'r');
    try {
      const head = Buffer.alloc(bytes);
      return head.latin1Slice(0, readSync(fd, head, 0, bytes, 0));
    } finally {
      closeSync(fd);
    }
  } catch {
    return null;
  }
}

function checkDatabases(run: FsckRun, repository: Repository): Finding[] {
  const { config, unitsDir } = repository;
  const object = `repository ${config.name}`;
  const findings: Finding[] = [];
  for (const cache of ['units.json', 'downloads.json']) {
    const file = join(run.context.root, 'repos', config.name, cache);
    const head = headOf(file, CACHE_FORMAT.length);
    if (head === null || head === CACHE_FORMAT) continue;
    findings.push({
      object,
      problem: `the cache ${cache} is damaged`,
      remedy: `strata repo sync ${config.name} (or fsck --repair) makes it anew`,
      severity: 'warning',
      repair: () => rmSync(file, { force: true }),
    });
  }
  if (config.kind !== 'dir') return findings;
  if (!statSync(unitsDir, { throwIfNoEntry: false })?.isDirectory()) {
    findings.push({
      object,
      problem: `its directory ${unitsDir} is gone`,
      remedy: 'mount or restore it, or remove the repository',
    });
    return findings;
  }
  if (!isLayersFileSound(join(unitsDir, 'Layers'))) {
    findings.push({
      object,
      problem: 'the database Layers is damaged and not used',
      remedy: `strata repo index ${config.name} writes it anew`,
      repair: async () => {
        rmSync(join(unitsDir, 'Layers'), { force: true });
        await repository.sync();
        run.context.repositories.invalidate();
      },
    });
  }
  return findings;
}

/** Whether a Layers file has the digest that its first line names; true when there is none. */
function isLayersFileSound(file: string): boolean {
  let bytes: Buffer;
  try {
    bytes = readFileSync(file);
  } catch {
    return true;
  }
  const end = bytes.indexOf(10) + 1;
  const digest = /^# Strata repository database, stamp [0-9a-f]+, sha256 ([0-9a-f]{64})\n$/.exec(
    bytes.latin1Slice(0, end),
  )?.[1];
  return digest === createHash('sha256').update(bytes.subarray(end)).digest('hex');
}

async function checkUnits(run: FsckRun, repository: Repository): Promise<void> {
  const { config, unitsDir } = repository;
  for (const name of namesIn(unitsDir)) {
    if (name.startsWith('.') || !name.includes('_')) continue;
    const dir = join(unitsDir, name);
    if (!statSync(dir, { throwIfNoEntry: false })?.isDirectory()) continue;
    run.checked.units++;
    const check = () => checkUnit(run, config.name, dir, name);
    await examine(run, check);
    if (run.deep) await checkContent(run, config.name, dir, name);
  }
}

function nameOf(repo: string, name: string): string {
  return `unit ${repo}/${name.replace('_', ' ')}`;
}

function remedyFor(repo: string, name: string): string {
  return `remove ${name} and import it again: strata layer remove ${repo}/${name.replace('_', ' ')}`;
}

function checkUnit(run: FsckRun, repo: string, dir: string, name: string): Finding[] {
  if (!isThere(dir)) return [];
  const object = nameOf(repo, name);
  const remedy = remedyFor(repo, name);
  const overlay = { overlay: false };
  try {
    const unit = openUnit(dir);
    overlay.overlay = unit.metadata.category === 'config';
    if (!isThere(unitTreeDir(unit))) return [{ object, problem: 'its tree filesystem/ is missing', remedy }];
    openUnitIndex(unit);
    return [];
  } catch (error) {
    if (!isThere(dir)) return [];
    const { message } = asStrataError(error);
    if (!isThere(join(dir, 'metadata'))) return [{ object, problem: `${dir} has no metadata`, remedy }];
    if (!isMetadataSound(dir)) return [{ object, problem: message, remedy }];
    const file = unitIndexFile({ dir } as never);
    return [
      {
        object,
        problem: isThere(file) ? `its index is damaged: ${message}` : 'its index is missing',
        remedy: 'strata fsck --repair makes it from the tree',
        repair: async () => {
          await writeTreeIndex(file, join(dir, 'filesystem'), overlay);
          forgetUnitIndexes();
          run.context.repositories.invalidate();
        },
      },
    ];
  }
}

function isMetadataSound(dir: string): boolean {
  try {
    openUnit(dir);
    return true;
  } catch {
    return false;
  }
}

/** Compares the whole tree with the index. */
async function checkContent(run: FsckRun, repo: string, dir: string, name: string): Promise<void> {
  if (checkUnit(run, repo, dir, name).length > 0) return;
  const problems = await verifyUnit(openUnit(dir));
  // Removed meanwhile.
  if (!isThere(dir)) return;
  const findings = problems.slice(0, NAMED).map(({ path, problem }) => ({
    object: nameOf(repo, name),
    problem: `/${path}: ${problem}`,
    remedy: remedyFor(repo, name),
  }));
  await report(run, findings, () => []);
}
