"""A clinic whose names and words are Spanish, and whose failures carry no flag."""

import json
import random
from typing import Any

from unseen.playing import Agent, Refused, Service

APELLIDOS = ["Núñez", "Ibáñez", "López", "Peña", "Solís", "Vega"]
MEDICOS = ["Dra. Ríos", "Dr. Gil", "Dra. Sanz"]
DIAS = ["lunes", "martes", "miércoles", "jueves", "viernes"]
HORAS = ["09:00", "10:00", "11:00", "12:00"]


def start(rng: random.Random) -> dict[str, Any]:
    fixed = random.Random("clinica")
    pacientes = {}
    for n in range(36):
        numero = f"{fixed.randrange(10**7, 10**8)}{'TRWAGMYF'[n % 8]}"
        pacientes[numero] = {
            "documento": numero, "apellido": APELLIDOS[n % 6], "edad": fixed.randrange(18, 90),
            "alergias": fixed.sample(["penicilina", "látex", "polen"], fixed.randrange(3)),
            "saldo": fixed.randrange(0, 90),
        }  # fmt: skip
    ocupadas = {
        f"{m}|{d}|{h}" for m in MEDICOS for d in DIAS for h in HORAS if fixed.random() < 0.4
    }
    return {"pacientes": pacientes, "ocupadas": ocupadas, "citas": {}, "rng": rng.randrange(10**6)}


def _paciente(state: Any, documento: str) -> dict[str, Any]:
    if documento not in state["pacientes"]:
        raise Refused({"fallo": f"No existe ningún paciente con documento {documento}"})
    own: dict[str, Any] = state["pacientes"][documento]
    return own


def buscar_pacientes(state: Any, apellido: str) -> Any:
    found = [p for p in state["pacientes"].values() if p["apellido"] == apellido]
    return [{k: p[k] for k in ("documento", "edad")} for p in found]


def ver_paciente(state: Any, documento: str) -> Any:
    own = dict(_paciente(state, documento))
    citas = [c for c in state["citas"].values() if c["documento"] == documento]
    return {**own, "citas": [c["cita"] for c in citas if c["estado"] == "activa"]}


def horas_libres(state: Any, medico: str, dia: str) -> Any:
    if medico not in MEDICOS:
        raise Refused({"fallo": f"El médico {medico} no trabaja aquí"})
    if dia not in DIAS:
        raise Refused({"fallo": f"Día desconocido: {dia}"})
    libres = [h for h in HORAS if f"{medico}|{dia}|{h}" not in state["ocupadas"]]
    return {"medico": medico, "dia": dia, "horas": libres}


def reservar_cita(state: Any, documento: str, medico: str, dia: str, hora: str) -> Any:
    _paciente(state, documento)
    if medico not in MEDICOS:
        raise Refused({"fallo": f"El médico {medico} no trabaja aquí"})
    if f"{medico}|{dia}|{hora}" in state["ocupadas"]:
        raise Refused({"fallo": f"Hora ocupada: {dia} a las {hora}"})
    state["ocupadas"] = state["ocupadas"] | {f"{medico}|{dia}|{hora}"}
    state["rng"] = (state["rng"] * 48271 + 11) % 999_983
    cita = f"CITA-{state['rng']:06d}"
    state["citas"][cita] = {
        "cita": cita, "documento": documento, "medico": medico, "dia": dia, "hora": hora,
        "estado": "activa", "precio": 40 if medico == "Dr. Gil" else 55,
    }  # fmt: skip
    return {"cita": cita, "estado": "activa"}


def ver_cita(state: Any, cita: str) -> Any:
    if cita not in state["citas"]:
        raise Refused({"fallo": f"No existe la cita {cita}"})
    return dict(state["citas"][cita])


def anular_cita(state: Any, cita: str) -> Any:
    own = state["citas"].get(cita)
    if own is None:
        raise Refused({"fallo": f"No existe la cita {cita}"})
    if own["estado"] == "anulada":
        raise Refused({"fallo": f"La cita {cita} ya está anulada"})
    own["estado"] = "anulada"
    state["ocupadas"] = state["ocupadas"] - {f"{own['medico']}|{own['dia']}|{own['hora']}"}
    return "Cita anulada."


def cobrar(state: Any, documento: str, importe: int) -> Any:
    own = _paciente(state, documento)
    if importe > own["saldo"]:
        raise Refused({"fallo": f"El importe {importe} supera la deuda de {own['saldo']}"})
    own["saldo"] -= importe
    return {"documento": documento, "pagado": importe, "saldo": own["saldo"]}


def agent(rng: random.Random, state: Any) -> Agent:
    hallados = yield "buscar_pacientes", {"apellido": rng.choice([*APELLIDOS, "Kowalski"])}
    if not hallados:
        hallados = yield "buscar_pacientes", {"apellido": rng.choice(APELLIDOS)}
    documento = rng.choice(hallados)["documento"]
    yield "ver_paciente", {"documento": documento}
    for _ in range(2):
        medico, dia = rng.choice([*MEDICOS, *MEDICOS, "Dr. House"]), rng.choice(DIAS)
        libres = yield "horas_libres", {"medico": medico, "dia": dia}
        hora = rng.choice(HORAS)
        if not isinstance(libres, Refused) and libres["horas"] and rng.random() < 0.7:
            hora = rng.choice(libres["horas"])
        args = {"documento": documento, "medico": medico, "dia": dia, "hora": hora}
        hecha = yield "reservar_cita", args
        if isinstance(hecha, Refused):
            continue
        cita = hecha["cita"]
        yield "ver_cita", {"cita": cita}
        if rng.random() < 0.5:
            yield "horas_libres", {"medico": medico, "dia": dia}
        if rng.random() < 0.5:
            yield "anular_cita", {"cita": cita}
            if rng.random() < 0.5:
                yield "anular_cita", {"cita": cita}
            yield "ver_cita", {"cita": cita}
    if rng.random() < 0.6:
        yield "cobrar", {"documento": documento, "importe": rng.choice([5, 20, 60])}
    yield "ver_paciente", {"documento": documento}


def malformed(what: str, tool: str, argument: str) -> Any:
    palabras = {"extra": "sobra", "missing": "falta", "type": "tipo incorrecto en"}
    return {"fallo": f"{palabras[what]} el campo {argument}"}


def dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


SERVICE = Service(
    "clinica", start,
    {f.__name__: f for f in
     (buscar_pacientes, ver_paciente, horas_libres, reservar_cita, ver_cita, anular_cita, cobrar)},
    agent, malformed, flagged=False, dump=dump,
)  # fmt: skip
