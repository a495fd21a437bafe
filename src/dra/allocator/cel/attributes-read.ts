import { isNode, type ParsedNode } from "./rewrite.ts";

/**
 * Names (without domain) of the attributes on which the verdict of an expression can depend; undefined: that cannot be
 * told, because it uses the device in another way than by names that are written out. Capacity, driver, and which
 * attributes there are, may matter in any case.
 */
export function attributesRead(root: ParsedNode): readonly string[] | undefined {
  const names = new Set<string>();
  return visit(root, names) ? [...names].sort() : undefined;
}

/** False: the device is used in a way that is not understood here. */
function visit(value: unknown, names: Set<string>): boolean {
  if (Array.isArray(value)) return value.every((each) => visit(each, names));
  if (!isNode(value)) return true;
  const read = nameRead(value);
  if (read !== undefined) names.add(read);
  if (read !== undefined || isHarmless(value)) return true;
  if (value.op === "id" && value.args === "device") return false;
  return visit(value.args, names);
}

/** `device.attributes["d"].name`, `device.attributes["d"]["name"]` and `"name" in device.attributes["d"]` read one attribute. */
function nameRead({ op, args }: ParsedNode): string | undefined {
  if (op !== "." && op !== "[]" && op !== "in") return undefined;
  const [left, right] = args as [unknown, unknown];
  if (op === "in") return isDomain(right) ? literal(left) : undefined;
  return isDomain(left) ? (op === "." ? (right as string) : literal(right)) : undefined;
}

/** Parts of a device that equal devices have in common, and the question whether it has attributes of a domain at all. */
function isHarmless({ op, args }: ParsedNode): boolean {
  if (op !== "." && op !== "in") return false;
  const [left, right] = args as [unknown, unknown];
  if (op === "in") return literal(left) !== undefined && isField(right, "attributes");
  return isDevice(left) && right !== "attributes";
}

function isDomain(value: unknown): boolean {
  if (!isNode(value) || value.op !== "[]") return false;
  const [left, right] = value.args as [unknown, unknown];
  return isField(left, "attributes") && literal(right) !== undefined;
}

function isField(value: unknown, name: string): boolean {
  return (
    isNode(value) &&
    value.op === "." &&
    isDevice((value.args as [unknown])[0]) &&
    (value.args as [unknown, string])[1] === name
  );
}

function isDevice(value: unknown): boolean {
  return isNode(value) && value.op === "id" && value.args === "device";
}

function literal(value: unknown): string | undefined {
  return isNode(value) && value.op === "value" && typeof value.args === "string" ? value.args : undefined;
}
