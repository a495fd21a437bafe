import { type Environment, Optional } from "@marcbachmann/cel-js";
import { namespace } from "./lists.ts";
import { isUrl } from "./urls.ts";

/** Reasons why a text has not the format; none: it has. */
type Validate = (text: string) => readonly string[];

/** A form of text by its name in Kubernetes. */
class NamedFormat {
  readonly name: string;
  readonly validate: Validate;

  constructor(name: string, validate: Validate) {
    this.name = name;
    this.validate = validate;
  }
}

const formatType = "kubernetes.NamedFormat";
const label = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const subdomain = `${label}(\\.${label})*`;
const word = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";

const isDnsLabel = pattern(label, "a lowercase DNS label: letters, digits and '-', at both ends no '-'", 63);
const isDnsSubdomain = pattern(subdomain, "lowercase DNS labels with dots between them", 253);
const isDns1035Label = pattern(
  "[a-z]([-a-z0-9]*[a-z0-9])?",
  "a lowercase DNS label that begins with a letter: letters, digits and '-', at the end no '-'",
  63,
);

/** The formats of https://kubernetes.io/docs/reference/using-api/cel/#kubernetes-format-library by the names there. */
const formats: ReadonlyMap<string, NamedFormat> = new Map(
  Object.entries({
    dns1123Label: isDnsLabel,
    dns1123Subdomain: isDnsSubdomain,
    dns1035Label: isDns1035Label,
    dns1123LabelPrefix: ofPrefix(isDnsLabel),
    dns1123SubdomainPrefix: ofPrefix(isDnsSubdomain),
    dns1035LabelPrefix: ofPrefix(isDns1035Label),
    qualifiedName,
    labelValue: pattern(
      `(${word})?`,
      "letters, digits, '-', '_' and '.', letters or digits at both ends, or empty",
      63,
    ),
    uri: (text: string) => (isUrl(text) ? [] : ["must be an absolute URL or an absolute path"]),
    uuid: pattern("(?:[0-9a-fA-F]{8})(?:-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12}", "a UUID"),
    byte: pattern("(?:[\\w+/]{4})*(?:[\\w+/]{2}==|[\\w+/]{3}=|[\\w+/]{4})".replaceAll("\\w", "A-Za-z0-9"), "base64"),
    date: (text: string) => (isDate(text) ? [] : ["must be a date like 2006-01-02"]),
    datetime: (text: string) => (isDateTime(text) ? [] : ["must be a time like 2006-01-02T15:04:05Z"]),
  }).map(([name, validate]) => [name, new NamedFormat(name, validate)]),
);

/** Verdicts are Kubernetes'; the texts that say why something is wrong are our own. */
export function registerNamedFormats(environment: Environment): void {
  environment.registerType(formatType, { ctor: NamedFormat, fields: {} });
  namespace(environment, "format", class Formats {});
  for (const [name, format] of formats) environment.registerFunction(`Formats.${name}(): ${formatType}`, () => format);
  environment.registerFunction(`Formats.named(string): optional<${formatType}>`, (_: unknown, name: string) => {
    const format = formats.get(name);
    return format === undefined ? Optional.none() : Optional.of(format);
  });
  environment.registerFunction(
    `${formatType}.validate(string): optional<list<string>>`,
    (format: NamedFormat, text: string) => {
      const reasons = format.validate(text);
      return reasons.length === 0 ? Optional.none() : Optional.of(reasons);
    },
  );
  environment.registerOperator(`${formatType} == ${formatType}`, (a: NamedFormat, b: NamedFormat) => a === b);
}

function pattern(source: string, meaning: string, maxBytes = Number.POSITIVE_INFINITY): Validate {
  const whole = new RegExp(`^(?:${source})$`);
  return (text) => [
    // A character is at least a byte; where one takes more, the pattern refuses it.
    ...(text.length > maxBytes ? [`must have no more than ${maxBytes} bytes`] : []),
    ...(whole.test(text) ? [] : [`must be ${meaning}`]),
  ];
}

/** Of the beginning of a name, to which something is appended: a dash at its end is none of the name's. */
function ofPrefix(validate: Validate): Validate {
  return (text) => validate(text.length > 1 && text.endsWith("-") ? `${text.slice(0, -2)}a` : text);
}

const isWord = pattern(word, "letters, digits, '-', '_' and '.', letters or digits at both ends", 63);

function qualifiedName(text: string): readonly string[] {
  const parts = text.split("/");
  if (parts.length > 2) return ["must be a name, or a DNS subdomain, '/' and a name"];
  const name = parts.at(-1) ?? "";
  const prefix = parts.length === 2 ? isDnsSubdomain(parts[0] ?? "") : [];
  return [...prefix.map((reason) => `prefix part ${reason}`), ...isWord(name).map((reason) => `name part ${reason}`)];
}

function isDate(text: string): boolean {
  const [, year, month, day] = /^(\d{4})-(\d\d)-(\d\d)$/.exec(text)?.map(Number) ?? [];
  if (year === undefined || month === undefined || day === undefined) return false;
  const isLeap = year % 4 === 0 && (year % 100 !== 0 || year % 400 === 0);
  const days = [31, isLeap ? 29 : 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
  return day >= 1 && day <= (days[month - 1] ?? 0);
}

/** As Kubernetes reads it: what stands after a second `t` does not count, nor does the character before a fraction. */
function isDateTime(text: string): boolean {
  const [date = "", time] = text.toLowerCase().split("t");
  const match = /^(\d\d):(\d\d):(\d\d)(.\d+)?(z|[+-]\d\d:\d\d)$/.exec(time ?? "");
  if (match === null || !isDate(date)) return false;
  const [hours, minutes, seconds] = match.slice(1, 4).map(Number);
  return hours! <= 23 && minutes! <= 59 && seconds! <= 59;
}
