/** Questions about definitions that several commands ask: what an LDF's references stand for, and what a template looks like from outside. */
import { join } from 'node:path';
import { LIMITS, parseUnitId, StrataError } from '../../base/index.ts';
import { type FleetContext, type TemplateState, templateState } from '../context.ts';
import type { LdfLine, TemplateInfo } from '../contract.ts';
import { readTextIfThere } from '../state/files.ts';
import type { Definition } from './generations.ts';
import { explicitLayers, implicitLayers, ldfRefs, parseLdf } from './ldf.ts';
import type { WantedLayer } from './resolve-definition.ts';

/** Definitions of the templates named, in order. Throws NOT_FOUND. */
export function refDefinitions(context: FleetContext, names: string[]): Definition[] {
  return names.map((name) => templateState(context, name).definition);
}

/** Explicit layers of the named templates and all that they refer to. Throws LIMIT when the references go in a circle. */
export function refExplicitLayers(context: FleetContext, names: string[], depth = 0): LdfLine[] {
  if (depth > LIMITS.ldfDepth) {
    throw new StrataError(
      'LIMIT',
      `templates refer to each other deeper than ${LIMITS.ldfDepth} levels (or in a circle)`,
    );
  }
  return names.flatMap((name) => {
    const { ldf } = templateState(context, name).definition;
    return [...refExplicitLayers(context, ldfRefs(ldf), depth + 1), ...explicitLayers(ldf)];
  });
}

/** A template's state with its LDF as it is on disk: a person may have edited templates/NAME/ldf. Throws BAD_FORMAT and names the line. */
export function refreshLdf(context: FleetContext, name: string): TemplateState {
  const state = templateState(context, name);
  const file = join(context.paths.templates, name, 'ldf');
  const ldfText = readTextIfThere(file) ?? state.definition.ldfText;
  if (ldfText === state.definition.ldfText) return state;
  const definition = { ...state.definition, ldfText, ldf: parseLdf(ldfText, file) };
  const fresh = { ...state, definition };
  context.templates.set(name, fresh);
  return fresh;
}

/** Explicit lines as wishes: a held line keeps its version, others may move. */
export function wantedOf(lines: LdfLine[]): WantedLayer[] {
  return lines.map(({ repo, layer, version, held }) => ({ repo, layer, held, ...(held ? { version } : {}) }));
}

/** Templates that refer to `name` directly. */
export function dependents(context: FleetContext, name: string): string[] {
  return [...context.templates]
    .filter(([, { definition }]) => ldfRefs(definition.ldf).includes(name))
    .map(([template]) => template);
}

/** Layer names of explicit layers, for apt's marks. */
export function layerNames(lines: { layer: string }[]): Set<string> {
  return new Set(lines.map(({ layer }) => layer));
}

export function templateInfo(context: FleetContext, name: string): TemplateInfo {
  const { definition } = refreshLdf(context, name);
  return {
    name,
    generation: definition.record.generation,
    explicit: explicitLayers(definition.ldf),
    implicit: implicitLayers(definition.ldf),
    refs: ldfRefs(definition.ldf),
    units: definition.record.units.length,
    ldf: definition.ldfText,
    appliances: context.catalog.countByTemplate().get(name) ?? 0,
  };
}

/** The names given, or all templates, referenced ones first; with `withDependents` also those that refer to them. */
export function inDependencyOrder(context: FleetContext, names: string[] | undefined): string[] {
  const wanted = new Set<string>();
  const add = (name: string): void => {
    if (wanted.has(name)) return;
    templateState(context, name);
    wanted.add(name);
    for (const dependent of dependents(context, name)) add(dependent);
  };
  for (const name of names ?? [...context.templates.keys()].sort()) add(name);
  const ordered: string[] = [];
  const visiting = new Set<string>();
  const visit = (name: string): void => {
    if (visiting.has(name)) return;
    visiting.add(name);
    for (const ref of ldfRefs(templateState(context, name).definition.ldf))
      if (context.templates.has(ref)) visit(ref);
    if (wanted.has(name)) ordered.push(name);
  };
  for (const name of wanted) visit(name);
  return ordered;
}

/** The unit of a layer in a definition's stack, or null. */
export function unitOfLayer(definition: Definition, layer: string): string | null {
  return definition.record.units.find((id) => parseUnitId(id)!.layer === layer) ?? null;
}
