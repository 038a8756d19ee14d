/** Layers and repositories as commands see them: add, list, sync, remove; import, build, show, verify, remove units. */
import { statSync } from 'node:fs';
import { basename, join } from 'node:path';
import { asStrataError, type Progress, StrataError, type UnitId, unitId } from '../../base/index.ts';
import { compareVersions, parseRelations } from '../../formats/index.ts';
import type { BuildOptions, LayerUnit } from '../../layer/contract.ts';
import { openUnitIndex, sharedImportPool, verifyUnit } from '../../layer/index.ts';
import { addRepository, type Repository, removeRepository } from '../../repository/index.ts';
import { basesOf } from '../../vlfs/index.ts';
import { applianceDirs } from '../appliances/private-files.ts';
import { type FleetContext, unitsInUse } from '../context.ts';
import type { Fleet } from '../contract.ts';
import { sealedGenerations } from '../sealed/records.ts';
import { namesIn } from '../state/files.ts';
import { forgetUnitIndexes } from './compose.ts';
import { describeOwner } from './generations.ts';

type Result<M extends keyof Fleet> = Awaited<ReturnType<Fleet[M]>>;
type Options<M extends keyof Fleet> = Parameters<Fleet[M]>[0];

const repositoryLock = (name: string) => `repository:${name}`;

export async function addRepo(
  context: FleetContext,
  options: Options<'repoAdd'>,
  progress: Progress,
): Promise<Result<'repoAdd'>> {
  return context.locks.with([repositoryLock(options.name)], async () => {
    const { config, madeSource } = await addRepository(context.root, options, progress);
    try {
      context.repositories.reload();
      const units = await context.repositories.get(config.name).offered();
      return { ...config, units: units.length, made_source: madeSource };
    } catch (error) {
      await removeRepository(context.root, config.name);
      context.repositories.reload();
      throw error;
    }
  });
}

export async function listRepos(context: FleetContext): Promise<Result<'repoList'>> {
  const rows = await Promise.all(
    context.repositories.all().map(async (repository) => ({
      ...repository.config,
      units: await repository.offered().then(
        (units) => units.length,
        () => 0,
      ),
      local: await repository.localUnits().then(
        (units) => units.length,
        () => 0,
      ),
    })),
  );
  return rows.sort((a, b) => (a.name < b.name ? -1 : 1));
}

export async function syncRepo(
  context: FleetContext,
  name: string,
  progress: Progress,
): Promise<Result<'repoSync'>> {
  const repository = context.repositories.get(name);
  return context.locks.with([repositoryLock(name)], async () => {
    const result = await repository.sync(progress);
    context.repositories.invalidate();
    return { name, ...result };
  });
}

/** Who needs units of a repository, or one unit. */
function users(context: FleetContext, isIt: (id: UnitId) => boolean): string[] {
  const definitions = [...context.templates.values()].map(({ definition }) => definition);
  return [...definitions, ...context.ownDefinitions.values()]
    .filter(({ record }) => record.units.some(isIt))
    .map(({ owner }) => describeOwner(owner))
    .concat(
      sealedGenerations(context)
        .filter(({ record }) => record.units.some(isIt))
        .map(({ name }) => `the sealed mount of appliance ${name}`),
      baseUsers(context, isIt),
    );
}

/** Appliances whose private files still show parts of files of such units. */
function baseUsers(context: FleetContext, isIt: (id: UnitId) => boolean): string[] {
  const { paths } = context;
  const needs = (privateDir: string): boolean =>
    [...basesOf(privateDir).keys()].some((id) => isIt(id as UnitId));
  const appliances = namesIn(paths.appliances)
    .filter((name) => needs(applianceDirs(paths, name).privateDir))
    .map((name) => `changed files of appliance ${name}`);
  const frozen = join(paths.root, 'frozen');
  const clones = namesIn(frozen).filter((name) => needs(join(frozen, name, 'private')));
  return clones.length === 0 ? appliances : [...appliances, 'changed files that clones share'];
}

function refuseUsed(what: string, by: string[]): void {
  if (by.length === 0) return;
  const some = by.slice(0, 5).join(', ');
  throw new StrataError(
    'BUSY',
    `${what} is used by ${some}${by.length > 5 ? ` and ${by.length - 5} more` : ''}`,
    {
      hint: 'update or delete those first',
    },
  );
}

export async function removeRepo(context: FleetContext, name: string): Promise<void> {
  context.repositories.get(name);
  await context.locks.with([repositoryLock(name)], async () => {
    refuseUsed(
      `repository ${name}`,
      users(context, (id) => id.startsWith(`${name}/`)),
    );
    await removeRepository(context.root, name);
    context.repositories.reload();
    context.repositories.invalidate();
  });
}

export async function indexRepo(
  context: FleetContext,
  name: string,
  progress: Progress,
): Promise<Result<'repoIndex'>> {
  const { units } = await syncRepo(context, name, progress);
  return { name, units };
}

/** The repository when units can be added to it by hand. */
function writable(context: FleetContext, name: string): Repository {
  const repository = context.repositories.get(name);
  if (repository.config.kind === 'dir') return repository;
  throw new StrataError(
    'UNSUPPORTED',
    `repository ${name} mirrors ${repository.config.source}; layers are not added to it by hand`,
    {
      hint: 'add a repository of your own: strata repo add local /srv/layers',
    },
  );
}

export async function importLayers(
  context: FleetContext,
  options: Options<'layerImport'>,
  progress: Progress,
): Promise<Result<'layerImport'>> {
  const repository = writable(context, options.repo);
  if (options.files.length === 0) throw new StrataError('USAGE', 'no file to import');
  const units: { repo: string; layer: string; version: string }[] = [];
  for (const [at, file] of options.files.entries()) {
    progress({
      phase: 'import',
      message: `importing ${basename(file)}`,
      done: at,
      total: options.files.length,
    });
    const { metadata } = await importFile(file, { repoDir: repository.unitsDir, progress });
    units.push({ repo: options.repo, layer: metadata.layer, version: metadata.version });
  }
  unitsAdded(context);
  return { units };
}

function importFile(file: string, options: { repoDir: string; progress: Progress }): Promise<LayerUnit> {
  if (!statSync(file, { throwIfNoEntry: false })?.isFile()) {
    throw new StrataError('NOT_FOUND', `there is no file ${file}`);
  }
  const name = basename(file);
  const tar = /^(.+?)_([^_]+?)(?:_[^_]+)?\.(?:tar|tgz|txz)(?:\.(?:gz|xz|zst))?$/.exec(name);
  if (tar && !name.endsWith('.deb'))
    return sharedImportPool().importTar(file, { ...options, name: tar[1]!, version: tar[2]! });
  if (/\.(?:tar|tgz|txz)(?:\.|$)/.test(name)) {
    throw new StrataError('USAGE', `the name of ${name} does not say layer and version`, {
      hint: 'call it NAME_VERSION.tar.gz',
    });
  }
  if (name.endsWith('.rpm')) throw new StrataError('UNSUPPORTED', '.rpm packages cannot be imported yet');
  return sharedImportPool().importDeb(file, options);
}

/** What is offered has changed by this process's own doing. */
function unitsAdded(context: FleetContext): void {
  if (context.templates.size > 0) context.repositories.warm(() => unitsInUse(context));
}

/** A unit never changes, so a slip in its relations would stay with it. */
function checkRelations(field: string, text: string): void {
  try {
    parseRelations(text);
  } catch (error) {
    const option = `--${field.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
    throw new StrataError('USAGE', `${option}: ${asStrataError(error).message}`, {
      hint: "write it as in 'libc6 (>= 2.36), nginx | apache2'",
      cause: error,
    });
  }
}

export async function buildLayer(
  context: FleetContext,
  options: Options<'layerBuild'>,
  progress: Progress,
): Promise<Result<'layerBuild'>> {
  const repository = writable(context, options.repo);
  const build: BuildOptions = {
    repoDir: repository.unitsDir,
    progress,
    name: options.name,
    version: options.version,
  };
  for (const key of ['depends', 'preDepends', 'conflicts', 'provides', 'replaces'] as const) {
    const value = options[key];
    if (value === undefined) continue;
    checkRelations(key, value);
    build[key] = value;
  }
  if (options.scripts !== undefined) build.scriptsDir = options.scripts;
  if (options.infer) {
    const lists = await Promise.all(context.repositories.all().map((one) => one.localUnits()));
    build.inferFrom = lists.flat();
  }
  if (repository.local({ layer: options.name, version: options.version }) !== null) {
    throw new StrataError('EXISTS', `${options.repo}/${options.name} ${options.version} exists already`, {
      hint: 'a unit never changes: build it with a higher version',
    });
  }
  progress({ phase: 'build', message: `building ${options.name} ${options.version}` });
  const { metadata } = await sharedImportPool().buildUnit(options.dir, build);
  unitsAdded(context);
  return { repo: options.repo, layer: metadata.layer, version: metadata.version };
}

export async function listLayers(
  context: FleetContext,
  options: Options<'layerList'>,
): Promise<Result<'layerList'>> {
  const repositories =
    options.repo === undefined ? context.repositories.all() : [context.repositories.get(options.repo)];
  const layers: Result<'layerList'>['layers'] = [];
  const match = options.match?.toLowerCase();
  for (const repository of repositories) {
    const repo = repository.config.name;
    const local = await repository.localUnits();
    const here = new Set(local.map(({ metadata }) => `${metadata.layer} ${metadata.version}`));
    const units = options.available ? await repository.offered() : local.map(({ metadata }) => metadata);
    for (const { layer, version, description } of units) {
      if (match !== undefined && !layer.toLowerCase().includes(match)) continue;
      const first = (description ?? '').split('\n')[0]!;
      layers.push({ repo, layer, version, local: here.has(`${layer} ${version}`), description: first });
    }
  }
  layers.sort((a, b) =>
    a.layer === b.layer ? compareVersions(b.version, a.version) : a.layer < b.layer ? -1 : 1,
  );
  return { layers };
}

export async function showLayer(
  context: FleetContext,
  options: Options<'layerShow'>,
): Promise<Result<'layerShow'>> {
  const repository = context.repositories.get(options.repo);
  const offered = (await repository.offered()).filter((unit) => unit.layer === options.layer);
  const local = (await repository.localUnits()).filter(({ metadata }) => metadata.layer === options.layer);
  const versions = [
    ...new Set([...offered, ...local.map(({ metadata }) => metadata)].map((unit) => unit.version)),
  ];
  versions.sort((a, b) => compareVersions(b, a));
  const version = options.version ?? versions[0];
  const unit = version === undefined ? null : repository.local({ layer: options.layer, version });
  const found = unit?.metadata ?? offered.find((one) => one.version === version);
  if (found === undefined) {
    throw new StrataError(
      'NOT_FOUND',
      version === undefined || versions.length === 0
        ? `repository ${options.repo} has no layer ${options.layer}`
        : `repository ${options.repo} has no ${options.layer} ${version}`,
      {
        hint:
          versions.length > 0
            ? `versions: ${versions.slice(0, 10).join(', ')}`
            : 'strata layer list --available',
      },
    );
  }
  const { repo: _, ...metadata } = { repo: options.repo, ...found };
  const size = unit === null ? {} : sizeOf(unit);
  return { repo: options.repo, local: unit !== null, versions, metadata, ...size };
}

function sizeOf(unit: LayerUnit): { files: number; bytes: number } {
  const index = openUnitIndex(unit);
  return { files: index.entryCount, bytes: index.totalBytes };
}

export async function verifyLayers(
  context: FleetContext,
  options: Options<'layerVerify'>,
  progress: Progress,
): Promise<Result<'layerVerify'>> {
  const repositories =
    options.repo === undefined ? context.repositories.all() : [context.repositories.get(options.repo)];
  const units: { id: UnitId; unit: LayerUnit }[] = [];
  for (const repository of repositories) {
    for (const unit of await repository.localUnits()) {
      if (options.layer !== undefined && unit.metadata.layer !== options.layer) continue;
      units.push({ id: unitId(repository.config.name, unit.metadata.layer, unit.metadata.version), unit });
    }
  }
  if (options.layer !== undefined && units.length === 0) {
    throw new StrataError('NOT_FOUND', `no unit of layer ${options.layer} is on this host`);
  }
  const problems: Result<'layerVerify'>['problems'] = [];
  for (const [at, { id, unit }] of units.entries()) {
    progress({ phase: 'verify', message: id, done: at, total: units.length });
    for (const { path, problem } of await verifyUnit(unit)) problems.push({ unit: id, path, problem });
  }
  return { checked: units.length, problems };
}

export async function removeLayer(context: FleetContext, options: Options<'layerRemove'>): Promise<void> {
  const repository = context.repositories.get(options.repo);
  const id = unitId(options.repo, options.layer, options.version);
  await context.locks.with([repositoryLock(options.repo)], async () => {
    refuseUsed(
      id,
      users(context, (one) => one === id),
    );
    await repository.remove({ layer: options.layer, version: options.version });
    context.repositories.invalidate();
    forgetUnitIndexes();
  });
}
