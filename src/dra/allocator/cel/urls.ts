import type { Environment } from "@marcbachmann/cel-js";

/** The parts of a URL as they are written. */
class Url {
  readonly scheme: string;
  readonly host: string;
  readonly path: string;
  readonly query: string;

  constructor(scheme: string, host: string, path: string, query: string) {
    this.scheme = scheme;
    this.host = host;
    this.path = path;
    this.query = query;
  }
}

/** An absolute URL, also one like `mailto:a`, which has neither host nor path, or an absolute path; a fragment is part of what it follows. */
const syntax =
  /^(?:([A-Za-z][A-Za-z0-9+.-]*):(?:\/\/(?:[^/?@]*@)?([^/?]*)|[^/?][^?]*)?|(?=\/))((?:\/[^?]*)?)(?:\?(.*))?$/s;
const urlType = "kubernetes.URL";

/** https://kubernetes.io/docs/reference/using-api/cel/#kubernetes-url-library */
export function registerUrls(environment: Environment): void {
  const add = (signature: string, handler: (...values: never[]) => unknown) =>
    environment.registerFunction(signature, handler);
  environment.registerType(urlType, { ctor: Url, fields: {} });
  add("isURL(string): bool", isUrl);
  add(`url(string): ${urlType}`, (text: string) => {
    const url = parseUrl(text);
    if (url === undefined) throw new Error(`URL parse error during conversion from string: ${JSON.stringify(text)}`);
    return url;
  });
  add(`${urlType}.getScheme(): string`, ({ scheme }: Url) => scheme);
  add(`${urlType}.getHost(): string`, ({ host }: Url) => host);
  add(`${urlType}.getHostname(): string`, ({ host }: Url) => host.replace(/:\d*$/, "").replace(/^\[(.*)\]$/, "$1"));
  add(`${urlType}.getPort(): string`, ({ host }: Url) => /:(\d*)$/.exec(host)?.[1] ?? "");
  add(`${urlType}.getEscapedPath(): string`, ({ path }: Url) => encodeURI(decodeURI(path)));
  add(`${urlType}.getQuery(): map<string, list<string>>`, ({ query }: Url) => queryOf(query));
  environment.registerOperator(`${urlType} == ${urlType}`, (a: Url, b: Url) => JSON.stringify(a) === JSON.stringify(b));
}

export function isUrl(text: string): boolean {
  return parseUrl(text) !== undefined;
}

function parseUrl(text: string): Url | undefined {
  const match = syntax.exec(text);
  if (match === null) return undefined;
  const [, scheme = "", host = "", path = "", query = ""] = match;
  return new Url(scheme.toLowerCase(), host, path, query);
}

function queryOf(query: string): Map<string, string[]> {
  const values = new Map<string, string[]>();
  for (const pair of query.split("&").filter((each) => each !== "")) {
    const [name = "", value = ""] = pair.split(/=(.*)/s).map((part) => decodeURIComponent(part.replaceAll("+", " ")));
    values.set(name, [...(values.get(name) ?? []), value]);
  }
  return values;
}
