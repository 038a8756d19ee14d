/** What is wrong with a request, in plain words, from what the schema validator found. */
import { StrataError } from '../base/index.ts';

/** One finding of the validator (ajv). */
export interface SchemaFinding {
  keyword: string;
  /** `/layers/3`: the field, and the place in it. */
  instancePath: string;
  params: Record<string, unknown>;
}

/** The findings of one request as one USAGE error. */
export function requestError(findings: readonly SchemaFinding[], cause: unknown): StrataError {
  return new StrataError('USAGE', sentence(findings), {
    hint: 'GET /openapi.json shows what requests hold',
    cause,
  });
}

function sentence(findings: readonly SchemaFinding[]): string {
  const choices = findings.filter(({ keyword }) => keyword === 'const');
  const first = choices[0] ?? findings[0];
  if (first === undefined) return 'the request is not valid';
  const field = fieldOf(first.instancePath);
  if (choices.length > 0)
    return `${field} must be ${choices.map((one) => String(one.params['allowedValue'])).join(' or ')}`;
  const { params } = first;
  const limit = Number(params['limit']);
  switch (first.keyword) {
    case 'required':
      return `${String(params['missingProperty'])} is missing`;
    case 'additionalProperties':
      return `there is no field ${JSON.stringify(params['additionalProperty'])} in this request`;
    case 'type':
      return `${field} must be ${NOUNS[String(params['type'])] ?? String(params['type'])}`;
    case 'minimum':
      return `${field} must be at least ${limit}`;
    case 'maximum':
      return `${field} must be at most ${limit}`;
    case 'minLength':
      return `${field} must not be empty`;
    case 'maxLength':
      return `${field} is longer than ${limit} characters`;
    case 'minItems':
      return `${field} must name at least ${limit === 1 ? 'one' : limit}`;
    case 'maxItems':
      return `${field} has more than ${limit} entries`;
    default:
      return `${field} is not valid`;
  }
}

const NOUNS: Record<string, string> = {
  integer: 'a whole number',
  number: 'a number',
  string: 'text',
  boolean: 'true or false',
  array: 'a list',
  object: 'an object with fields',
};

/** `/layers/3` as `entry 4 of layers`. */
function fieldOf(instancePath: string): string {
  const parts = instancePath.split('/').slice(1);
  const field = parts[0] ?? 'the request';
  return /^\d+$/.test(parts[1] ?? '') ? `entry ${Number(parts[1]) + 1} of ${field}` : field;
}
