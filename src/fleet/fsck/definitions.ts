/** Templates and generations: links, LDFs, stacks and their units, config layers and their indexes, and memory against the files. */
import { lstatSync, readlinkSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { asStrataError } from '../../base/index.ts';
import { openTreeIndex, writeTreeIndex } from '../../layer/index.ts';
import {
  isThere,
  namesIn,
  readJsonIfThere,
  readTextIfThere,
  removeTree,
  syncDirectory,
} from '../state/files.ts';
import { COMMIT } from '../state/locks.ts';
import { generationDir, type Owner, ownerDir } from '../state/paths.ts';
import {
  configPaths,
  currentGeneration,
  describeOwner,
  type GenerationRecord,
  listGenerations,
  readGeneration,
} from '../templates/generations.ts';
import { ldfRefs, parseLdf } from '../templates/ldf.ts';
import { examine, type Finding, type FsckRun } from './run.ts';

export async function checkTemplates(run: FsckRun): Promise<void> {
  const { paths } = run.context;
  for (const name of namesIn(paths.templates)) {
    if (name.startsWith('.')) continue;
    await examine(run, () => checkTemplate(run, name));
    await checkGenerations(run, name);
  }
}

function checkTemplate(run: FsckRun, name: string): Finding[] {
  const { paths } = run.context;
  const dir = ownerDir(paths, name);
  if (!isThere(dir)) return [];
  const object = `template ${name}`;
  if (!lstatSync(dir).isDirectory()) {
    return [
      {
        object,
        problem: `${dir} is no directory`,
        remedy: 'nothing refers to it; delete it',
        severity: 'warning',
      },
    ];
  }
  const findings = checkOwner(run, name, run.context.templates.get(name)?.definition.record ?? null);
  try {
    const state = readJsonIfThere(join(dir, 'state.json'));
    if (state !== null && state['format'] !== 1)
      findings.push({
        object,
        problem: 'state.json is of another version',
        remedy: `delete ${dir}/state.json`,
      });
  } catch (error) {
    findings.push({
      object,
      problem: asStrataError(error).message,
      remedy: `delete ${dir}/state.json; strata update writes it anew`,
    });
  }
  return findings;
}

/** What every owner of generations has: `current`, `ldf`, and the same in the memory of stratad. */
export function checkOwner(run: FsckRun, owner: Owner, memory: GenerationRecord | null): Finding[] {
  const { paths, templates } = run.context;
  const dir = ownerDir(paths, owner);
  const object = describeOwner(owner);
  const current = currentGeneration(paths, owner);
  const there = listGenerations(paths, owner);
  const newest = there.at(-1);
  if (current === 0 || !there.includes(current)) {
    const target = linkTarget(join(dir, 'current'));
    const problem =
      target === null
        ? 'it has no link current'
        : `its link current leads to ${JSON.stringify(target)}, which is no generation`;
    const remedy =
      newest === undefined
        ? `nothing is left of it; delete ${dir}`
        : `point it at a generation: ln -sfn generations/${newest} ${dir}/current; strata daemon restart`;
    return [{ object, problem, remedy }];
  }
  const findings: Finding[] = [];
  if (memory === null || memory.generation !== current) {
    findings.push({
      object,
      problem: `stratad holds ${memory === null ? 'no generation' : `generation ${memory.generation}`} of it, the files say ${current}`,
      remedy: 'strata daemon restart',
    });
  }
  for (const above of there.filter((n) => n > current)) {
    findings.push({
      object,
      problem: `generation ${above} was never committed`,
      remedy: 'strata fsck --repair removes it',
      repair: () =>
        run.context.locks.with([COMMIT], () => {
          if (above > currentGeneration(paths, owner)) removeTree(generationDir(paths, owner, above));
          syncDirectory(join(dir, 'generations'));
        }),
    });
  }
  const file = join(dir, 'ldf');
  try {
    const text = readTextIfThere(file);
    if (text === null)
      findings.push({ object, problem: 'it has no ldf', remedy: `ln -s current/ldf ${file}` });
    else
      for (const ref of ldfRefs(parseLdf(text, file)))
        if (!templates.has(ref))
          findings.push({
            object,
            problem: `its LDF refers to template ${ref}, which there is not`,
            remedy: `edit ${file}`,
          });
  } catch (error) {
    findings.push({ object, problem: asStrataError(error).message, remedy: `edit ${file}` });
  }
  return findings;
}

function linkTarget(path: string): string | null {
  try {
    return readlinkSync(path);
  } catch {
    return null;
  }
}

/** All generations of a template or of an appliance with layers of its own. */
export async function checkGenerations(run: FsckRun, owner: Owner): Promise<void> {
  for (const generation of listGenerations(run.context.paths, owner)) {
    run.checked.generations++;
    await examine(run, () => checkGeneration(run, owner, generation));
  }
}

function checkGeneration(run: FsckRun, owner: Owner, generation: number): Finding[] {
  const { paths, repositories } = run.context;
  const dir = generationDir(paths, owner, generation);
  const current = currentGeneration(paths, owner);
  // Deleted meanwhile, or never committed, which is reported of its owner.
  if (!isThere(dir) || generation > current) return [];
  const object = `${describeOwner(owner)}, generation ${generation}`;
  const isCurrent = generation === current;
  const remedy = isCurrent
    ? 'strata rollback to a sound generation'
    : 'nothing uses it; strata gc removes it in time';
  const findings: Finding[] = [];
  let record: GenerationRecord;
  try {
    record = readGeneration(paths, owner, generation);
    const text = readTextIfThere(join(dir, 'ldf'));
    if (text === null) findings.push({ object, problem: 'its ldf is missing', remedy });
    else parseLdf(text, join(dir, 'ldf'));
  } catch (error) {
    return [{ object, problem: asStrataError(error).message, remedy }];
  }
  const missing = record.units.filter((id) => localOrNull(repositories, id) === null);
  if (missing.length > 0) {
    const more = missing.length > 1 ? ` and ${missing.length - 1} more` : '';
    findings.push({
      object,
      problem: `its unit ${missing[0]}${more} is not on this host`,
      remedy: isCurrent
        ? 'import it again, or: strata update'
        : 'a rollback to it fetches it if it is still offered',
      severity: isCurrent ? 'error' : 'warning',
    });
  }
  for (const ref of record.configs) {
    const { tree, index } = configPaths(paths, ref);
    const of =
      ref.owner === owner && ref.generation === generation
        ? 'its config layer'
        : `the config layer of ${describeOwner(ref.owner)}, generation ${ref.generation},`;
    if (!statSync(tree, { throwIfNoEntry: false })?.isDirectory()) {
      findings.push({ object, problem: `${of} is missing (${tree})`, remedy });
      continue;
    }
    const damage = indexDamage(index);
    if (damage === null) continue;
    findings.push({
      object,
      problem: `${of} has ${damage}`,
      remedy: 'strata fsck --repair makes it from the tree',
      repair: async () => {
        await writeTreeIndex(index, tree, { overlay: true });
      },
    });
  }
  return findings;
}

function localOrNull(repositories: FsckRun['context']['repositories'], id: string) {
  try {
    // The memory of units that were there must not hide that one is gone.
    const unit = repositories.local(id as never);
    return unit !== null && isThere(join(unit.dir, 'metadata')) ? unit : null;
  } catch {
    return null;
  }
}

function indexDamage(file: string): string | null {
  if (!isThere(file)) return 'no index';
  try {
    openTreeIndex(file);
    return null;
  } catch (error) {
    return `a damaged index: ${asStrataError(error).message}`;
  }
}
