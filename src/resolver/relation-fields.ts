/**
 * Relation fields, parsed once for all universes: after one repository has changed, nearly all units are the same records, and what is
 * asked for again are the same texts.
 */
import { StrataError } from '../base/index.ts';
import { formatRelation, parseRelations, type Relation } from '../formats/index.ts';

export interface ParsedRelation {
  readonly relation: Relation;
  /** The relation as people read it, which also identifies it. */
  readonly text: string;
}

/** Fields that are kept: those of some ten thousand units. */
const CAPACITY = 1 << 16;
let byText = new Map<string, readonly (readonly ParsedRelation[])[] | null>();
let architectureOf: string | undefined;

/** The alternatives of each member of the field; null when the text is malformed: one bad record must not make the others unusable. */
export function relationField(
  text: string,
  architecture: string | undefined,
): readonly (readonly ParsedRelation[])[] | null {
  if (architecture !== architectureOf || byText.size >= CAPACITY) {
    byText = new Map();
    architectureOf = architecture;
  }
  let groups = byText.get(text);
  if (groups === undefined) {
    groups = parse(text, architecture);
    byText.set(text, groups);
  }
  return groups;
}

function parse(text: string, architecture: string | undefined): ParsedRelation[][] | null {
  try {
    return parseRelations(text, architecture === undefined ? {} : { architecture }).map((group) =>
      group.map((relation) => ({ relation, text: formatRelation(relation) })),
    );
  } catch (error) {
    if (error instanceof StrataError) return null;
    throw error;
  }
}
