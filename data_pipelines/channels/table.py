"""The table of channels: canonical names, what they are, and the labels that sites give them.

Only data lives here; :mod:`data_pipelines.channels.resolve` matches labels against it. Every alias
is compared as a whole after normalisation (case, spaces and the separators ``_ - : / ( ) . #`` do
not count), so one spelling stands for many. Labels are facts collected from montage pages of the
National Sleep Research Resource, from headers of public recordings and from published alias lists.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Channel:
    """A canonical channel.

    Attributes:
        name: The name used in files, stores and configs.
        signal_type: ``eeg``, ``eog``, ``emg``, ``ecg`` or ``resp`` share a tokenizer; further types
            are ``flow``, ``ppg`` and ``number``.
        unit: Unit of a reading: ``uV``, ``%``, ``bpm`` or ``""`` (arbitrary).
        lowest_rate_hz: Below this native rate the recording does not hold the waveform.
        aliases: Labels, best first.
        last_resort: Labels used only where nothing better is in the file, with a note.
    """

    name: str
    signal_type: str
    unit: str
    lowest_rate_hz: float
    aliases: tuple[str, ...] = ()
    last_resort: tuple[str, ...] = ()


def _labels(text: str) -> tuple[str, ...]:
    return tuple(label.strip() for label in text.replace("\n", "|").split("|") if label.strip())


# Electrodes of EEG and EOG channels. Derivations (C3-M2, C3M2, M2-C3, EEG C3-Ref ...) are composed
# from these by the resolver, so a new electrode name works in every derivation.
ELECTRODES = {
    "eeg_c3": _labels("C3 | EEG(sec) C3 | CENTRAL | L_CENT"),
    "eeg_c4": _labels("C4 | EEG(sec) C4 | R_CENT"),
    "eeg_f3": _labels("F3 | FRONTAL"),
    "eeg_f4": _labels("F4"),
    "eeg_o1": _labels("O1 | 01 | OCC | L_OCC"),
    "eeg_o2": _labels("O2 | 02"),
    "eog_e1": _labels(
        """E1 | LOC | EOG(L) | EOGL | L-EOG | LEOG | EOG Left | Left EOG | EOG1 | EOG-links | EOGG
        | E1 (LEOG) | PG1"""
    ),
    "eog_e2": _labels(
        """E2 | ROC | EOG(R) | EOGR | EOGr512 | R-EOG | REOG | EOG Right | Right EOG | EOG2
        | EOG-rechts | EOGD | E2 (REOG) | PG2"""
    ),
}

# AASM: each EEG and EOG channel against the mastoid of the other side.
WANTED_REFERENCE = {
    "eeg_c3": "M2",
    "eeg_f3": "M2",
    "eeg_o1": "M2",
    "eog_e1": "M2",
    "eeg_c4": "M1",
    "eeg_f4": "M1",
    "eeg_o2": "M1",
    "eog_e2": "M1",
}
REFERENCES = {"M1": ("M1", "A1", "TP9"), "M2": ("M2", "A2", "TP10")}
LINKED_REFERENCES = _labels("M1M2 | A1A2 | M1-M2 | A1-A2 | M1+M2 | A1+A2 | LE | M2-M1 | A2-A1")
# Partners of a derivation that is neither mastoid-referenced nor another canonical electrode.
OTHER_PARTNERS = _labels("Cz | Fz | Pz | Oz | Fpz | AVG | P3 | P4 | T3 | T4 | X | CPz")
RECORDER_REFERENCES = _labels("Ref | REF1 | G2 | G19")

# Partners in one-channel montages and bipolar chains.
SAME_SIDE_PARTNERS = {
    "eeg_c3": ("O1",),
    "eeg_c4": ("O2",),
    "eeg_f3": ("C3",),
    "eeg_f4": ("C4",),
}
ONLY_IN_DERIVATIONS = ("01", "02")  # zero for O; alone they are numbers
TYPOS_OF_M2_C3 = ("M2-C2",)

# Electrodes of the chin, and the pairs in order of preference (first minus second).
CHIN_ELECTRODES = {
    "right": _labels("ChinR | R Chin | Chin-R | Rchiin | Right Chin | cchin_r | Queixo d"),
    "left": _labels("ChinL | L Chin | Chin-L | Left Chin | cchin_l | Queixo e"),
    "centre": _labels("CChin | C Chin | Chin-Ctr | ChinA | Chin C | Queixo a"),
    "1": _labels("Chin1 | Chin 1 | EMG Chin1"),
    "2": _labels("Chin2 | Chin 2 | EMG Chin2"),
    "3": _labels("Chin3 | Chin 3 | EMG Chin3"),
}
CHIN_PAIRS = (
    ("right", "left"),
    ("1", "2"),
    ("centre", "left"),
    ("centre", "right"),
    ("1", "3"),
    ("2", "3"),
)
# Nox writes its chin electrodes as bare 1, 2, F. They count only where all of these stand together.
NOX_CHIN = ("1", "2", "F", "1-2", "1-F", "2-F")
NOX_PREFERRED = "1-F"

# Two electrodes of one lead (lead I: left minus right) where no ready lead ranks before them.
ECG_PAIR = ("ECG L", "ECG R")

CHANNELS: dict[str, Channel] = {
    channel.name: channel
    for channel in (
        Channel("eeg_c3", "eeg", "uV", 50),
        Channel("eeg_c4", "eeg", "uV", 50),
        Channel("eog_e1", "eog", "uV", 25),
        Channel("eog_e2", "eog", "uV", 25),
        Channel(
            *("emg_chin", "emg", "uV", 50),
            aliases=_labels(
                """EMG_CHIN1-CHIN2 | Chin1-Chin2 | Chin 1-Chin 2 | Chin-1-Chin-2 | Chin2-Chin1
                | EMG Chin2-Chin1 | R Chin-L Chin | L Chin-R Chin | Lchin-Cchin | Chin1-Chin3
                | CHIN | Chin EMG | EMG Chin | CHINEMG | EMG submental | EMG_SM | Submental
                | Kinn | Queixo | PSG_EMG"""
            ),
            last_resort=_labels(
                "Masseter | Masseter_1 | Masseter 2 | Massater 1 | Massater 2 | Masset."
            ),
        ),
        Channel(
            *("ecg", "ecg", "uV", 50),
            aliases=_labels(
                """ECG | EKG | ECG II | ECGII | ECG_IIHF | ECG I | ECG L-ECG R | ECG1-ECG2
                | EKG1-EKG2 | ECG-1-ECG-2 | EKG2a-EKG2b | ECG EKG2-EKG | EKG2-EKG | ECG LA-RA
                | LA-RA
                | ECG1-ECG3 | ecg3-ECG2 | ECG/R-ECG/L | ECG1-EC | ECG1 | EKG1 | ECG ECG1
                | EKG #1 | ECG2 | EKG2 | ECG3 | ECG L | ECGL | EKG-L | ECG/L | EKG_L-Cz | EKG8
                | ECG R | ECGR | ECG V | ECG Upper | MLII | MLI | MCL1 | II | V5 | V | AVR
                | EEG EKG | SUB-R_-_V5"""
            ),
            last_resort=_labels("LLEG1-EKG2"),
        ),
        Channel(
            *("resp_abd", "resp", "", 4),
            aliases=_labels(
                """ABDO RES | ABDO EFFORT | Abdo | Abdominal | Abdomen | Abdome | Abdom | ABDM
                | Abdmn | Abd | AbdDC | p.Abdomen | Effort ABD | Effort Abdo | Effort Abdomen
                | RIP Abdomen | RIP Abdom | RIP Abd | Abdo Zrip | Abdomen CaL | Bauch
                | Resp Abdominal | Resp Abdomen | Inductance Abdom"""
            ),
        ),
        Channel(
            *("resp_thx", "resp", "", 4),
            aliases=_labels(
                """THOR RES | THOR EFFORT | Thor | Thoracic | Thorax | Chest | CHEST #1 | ChestDC
                | Chest Effort | Effort THO | Effort Thorax | THO | RIP Thorax | RIP Thora
                | RIP Tho | RIP Thrx | RIP Chest | Thorax Zrip | Resp Thoracic | Resp Thorax
                | Resp Chest | Inductance Thora"""
            ),
        ),
        Channel("eeg_f3", "eeg", "uV", 50),
        Channel("eeg_f4", "eeg", "uV", 50),
        Channel("eeg_o1", "eeg", "uV", 50),
        Channel("eeg_o2", "eeg", "uV", 50),
        Channel("eeg_fpz_cz", "eeg", "uV", 50, _labels("Fpz-Cz | FpzCz")),
        Channel("eeg_pz_oz", "eeg", "uV", 50, _labels("Pz-Oz | PzOz")),
        Channel(
            *("eog_horizontal", "eog", "uV", 25),
            _labels("EOG horizontal | PSG_EOG | E1:E2 | LOC-ROC | E1E2 | EOG1-EOG2"),
        ),
        Channel(
            *("airflow", "flow", "", 4),
            _labels(
                """AIRFLOW | Airlfow | NEW AIR | NEWAIR | New A/F | AIR | Flow Th | Thermistor
                | Thermist | Therm | TERM | Nasal/Oral Therm | Nasal/Oral | Oral Thermistor
                | Nasal Therm | NasOr | NasalOr | Resp oro-nasal | Resp Airflow | Resp (nasal)
                | ORAL_FLOW | Atemfluss | Fluss | EEG_Therm | PSG_THER | Aux_AC"""
            ),
        ),
        Channel(
            *("nasal_pressure", "flow", "", 4),
            _labels(
                """Nasal Pressure | NASAL PRES | NASAL PRESS | NASAL P | NasalP | N.Press | N Pres
                | Cannula Flow | CannulaFlow | CannnulaFlow | CanulaFlow | CannulaFow | Cannula
                | NP | NAF | NasalDC | NasalAC | Prongs | PTAF | Resp PTAF | Pressure Flow
                | DC_Nasal_Canual | Nasendruck | Nasaler Druck | PSG_CAN | Nasal"""
            ),
        ),
        Channel(
            *("spo2", "number", "%", 0.1),
            _labels(
                """SpO2 | SaO2 | Sa02 | Sp02 | SAT | SO2 | Saturation | SpO2 BB | SpO2 B-B | TcSpO2
                | SpO2 Masimo | O2_Masimo | Nonin_sat | SAO2W | PaO2 | PSG_SPO2"""
            ),
        ),
        Channel(
            *("heart_rate", "number", "bpm", 0.1),
            _labels(
                """H.R. | Heart Rate | HEARTRATE | HRate | PR | Pulse Rate | PulseR | Pulse | Puls
                | Pluse | BPM | DHR | Derived HR | Herzfrequenz | PSG_BEAT"""
            ),
        ),
        Channel(
            *("ppg", "ppg", "", 20),
            _labels(
                """PPG | Pleth | PlethWV | Plethysmogram | PPG Masimo | TcPPG | Finger PPG
                | SentecPPG
                | RD-Pleth | PWF | PlethMasimo | PletMasimo | PlethMasino | Plesmo | Plth
                | Pulse Waveform | WAVE | PSG_PULSE | HB_PULSE"""
            ),
        ),
        Channel(
            *("position", "number", "", 0.01),
            _labels(
                """POSITION | Pos | BPOS | BPOSdc1 | POSdc | Body | Body Position | PosSensor
                | Pos Sensor | PositionSen | Pro_Tech_Positio | ProTechPositione | Positon | Postion
                | Postition | Pt Position | Lage"""
            ),
        ),
        Channel(
            *("emg_leg_l", "emg", "uV", 50),
            _labels(
                """LEG(L) | LegL | L Leg | LLEG | Left Leg | LEFT_LEG1 | LLeg1-LLeg2 | L-LEG1
                | L-Leg 1-L-Leg 2 | LLeg1 | LAT1-LAT2 | LAT | LAT-L | Tib-L | EMG_TIB_L | Leg_1
                | EMG_LLEG+-LLEG- | EMG/L1-EMG/L2 | PLMl | PLM l | Bein Links | Perna Esq
                | Jambe gauche | L EMG | LLeg2"""
            ),
        ),
        Channel(
            *("emg_leg_r", "emg", "uV", 50),
            _labels(
                """LEG(R) | LegR | R Leg | RLEG | Right Leg | RIGHT_LEG1 | RLeg1-RLeg2 | R-LEG1
                | R-Leg 1-R-Leg 2 | RLeg1 | RAT1-RAT2 | RAT | RAT-R | LAT-R | Tib-R | EMG_TIB_R
                | Leg_2 | EMG_RLEG+-RLEG- | EMG/R1-EMG/R2 | PLMr | PLM r | Bein Rechts | Perna Dir
                | Jambe droite | R EMG | RLeg2"""
            ),
        ),
        Channel(
            *("snore", "snore", "", 4),
            _labels(
                """Snore | SNOR | Snoring | Snoring Sensor | Snore-db | Sonre | PSNORE | P-Snore
                | Pressure Snore | Nasal Snore | NasalSn | SOUND | Sound dB | Mic | MICRO
                | Audio Volume | Audio Volume dB | Schnarchen"""
            ),
        ),
    )
}

# Labels that name no electrode. They bind only in a named cohort or by the user's alias file.
GENERIC = {
    label: reason
    for reason, labels in {
        "says EEG but not which electrode": """EEG | EEG1 | EEG2 | EEG3 | EEG4 | EEG sec | EEG(sec2)
            | HB_1 | HB_2""",
        "says EMG but not which muscle": """EMG | EMG1 | EMG2 | EMG3 | EMG4 | EMG1-EMG2 | EMG2-EMG1
            | EMG3-EMG2 | EMG/L | EMG/R | EMG/U | EMG/L-EMG/R""",
        "says EOG but not which eye": "EOG",
        "is a leg channel of both or of unknown side": """LEG | LEGS | EMG_LLeg-RLeg | L/RAT
            | LLEG1-RLEG1""",
        "is a flow of unknown kind (thermal, or nasal pressure as in MESA)": """FLOW | AUX | Resp
            | RESP1""",
        "is either an R-R interval or a respiratory rate": "RR | R-R",
        "is a free input whose meaning is the site's own": """DC01 | DC02 | DC03 | DC04 | DC05
            | DC06
            | DC1 | DC2 | DC3 | DC4 | DC5 | DC6 | X1 | X2 | X3 | X4 | X5 | X6 | X7 | X8 | X9 | X10
            | X15 | X18 | X19 | X20 | X21""",
    }.items()
    for label in _labels(labels)
}

# Labels that are understood and never used, with the reason.
EXCLUDED = {
    label: reason
    for reason, labels in {
        "status flag, not a measurement": """OX stat | OxStatus | Ox Status | STAT | SpO2-Quality
            | SpO2Sta | Status | Technical | Trigger | TRIG""",
        "marker, not a measurement": "Marker | Event marker | Event | Patient Event",
        "battery or voltage": """Battery | Voltage (battery | Voltage (core) | Voltage (bluetoo
            | Voltage | Bat""",
        "voltage of an input, not a saturation": "SaO2 X9",
        "unused input": "unused | x | none | E | GND | Ground | Empty | Spare",
        "positive-airway-pressure device: not a diagnostic airflow": """CPAP Flow | CFLOW | C-Flow
            | PAP_FLOW | PAP Flow | PAP_Pt_Flo | maskflow | Mask Flow | ResMed_Flow | Flow_Patient
            | Flow_Patient2 | Flow_Patient3 | CPAP Press | CPAP Pressure | CPAP | CPress | CPRES
            | C-Pres | C-Pressure | PAP_Pres | xPAP_CPAP | xPAP IPAP | xPAP EPAP | Press_Patient
            | Leak | C-LEAK | Leak_Total | PAP_Leak | Tidal_Vol | TVOL | Mask Pressure
            | PAP Pressure""",
        "sum or derived flow, not a belt": """SUM | Sum RIP | Sum.RIPs | RIP Sum | RIP Sum Cal
            | RIP Flow | RIP Flow Cal | RIP-Phase
            | XSum | XFlow | THOR+ABDO | Abd:Chest | Resp (sum) | PNEUMOFLOW | K
            | Inductance Sum""",
        "derived rate or index": """Resp Rate | Flow Limitation | PTT | PWA | Respiratory Rate
            | Activity | Activty | Phase""",
        "accelerometer or posture angle": """X Axis | Y Axis | Z Axis | Elevation | PosAngle
            | Gravity X | Gravity Y | Gravity Z | Move. | Mvmt | HB_IMU_1 | HB_IMU_2 | HB_IMU_3
            | HB_IMU_4 | HB_IMU_5 | HB_IMU_6""",
        "carbon dioxide": """EtCO2 | EtC02 | ETC2 | CO2_EndTidal | Capno | CAP | TcCO2 | Tcm4CO2
            | Oral-CO2 | CO2""",
        "not a channel of any model here": """LIGHT | SV | BP | ABP | ART | CVP | PAP | Temp rectal
            | Temp | Volume audio | PLETH Status | PR Quality""",
        "between the hemispheres, belongs to neither side": """C3:C4 | C4:C3 | F4:F3 | F3:F4
            | O2:O1 | O1:O2""",
        "scalp electrode of no canonical channel": """Fp1 | Fp2 | Fpz | Fz | Cz | Pz | Oz | F7 | F8
            | T3 | T4 | T5 | T6 | T7 | T8 | P3 | P4 | P7 | P8 | Fz-Cz | Cz-Oz | P4-O2
            | Fp2-F4 | Fp1-A2 | FP1M2 | CZM2 | CZ/A1 | PZA1 | FZ-A1A2 | FZ-M1M2 | M1-Cz | T3-O1
            | T4-O2 | F1M2 | F2M1 | F2-C4""",
    }.items()
    for label in _labels(labels)
}
# First or last whole word of a label that excludes the channel whatever else it says.
EXCLUDING_WORDS = {
    "impedance": "electrode impedance",
    "impédance": "electrode impedance",
    "impedanz": "electrode impedance",
    "imp": "electrode impedance",
    "ohm": "electrode impedance",
}


# Positions of the body, in the order of the codes of SleepLM's official code (0 right ... 4
# upright). That SHHS, CFS and CCSHS have the same codes is inferred: check a night of theirs.
POSITIONS = ("right", "left", "supine", "prone", "upright")


@dataclasses.dataclass(frozen=True)
class CohortLabel:
    """Meaning of a label in one cohort.

    ``channel`` None says that it is none of the channels; ``minus`` is a label to subtract;
    ``stand_in`` says that it is not the channel itself but the nearest one recorded; ``codes`` are
    the numbers of a position and their words.
    """

    channel: str | None
    note: str
    minus: str | None = None
    stand_in: bool = False
    codes: tuple[tuple[float, str], ...] | None = None


def _chin(cohort: str) -> dict[str, CohortLabel]:
    return {"EMG": CohortLabel("emg_chin", f"chin in {cohort}")}


def _chin_pair(cohort: str) -> dict[str, CohortLabel]:
    return {"EMG1": CohortLabel("emg_chin", f"chin electrode in {cohort}", minus="EMG2")}


def _position(note: str, words: tuple[str, ...] = POSITIONS) -> dict[str, CohortLabel]:
    """The labels of a position, whose codes 0, 1, ... are these words."""
    meaning = CohortLabel("position", note, codes=tuple(enumerate(words)))
    return dict.fromkeys(("Position", "Body Position", "Pos"), meaning)


# Cohorts whose generic labels are documented. Lower-case name -> label -> meaning.
COHORTS: dict[str, dict[str, CohortLabel]] = {
    "shhs": _chin("SHHS")
    | {"EEG": CohortLabel("eeg_c4", "C4-A1 in SHHS")}
    | dict.fromkeys(
        _labels("EEG(sec) | EEG2 | EEG sec | EEG 2"), CohortLabel("eeg_c3", "C3-A2 in SHHS")
    )
    | {"AUX": CohortLabel("airflow", "airflow in part of SHHS")}
    | _position("codes of SHHS"),
    "mesa": _chin("MESA")
    | {
        "EEG1": CohortLabel(None, "Fz-Cz in MESA, which is no channel of any model here"),
        "EEG2": CohortLabel(None, "Cz-Oz in MESA, which is no channel of any model here"),
        "EEG3": CohortLabel("eeg_c4", "C4-M1 in MESA"),
        "Flow": CohortLabel("nasal_pressure", "nasal cannula in MESA"),
        "Aux_AC": CohortLabel("airflow", "thermistor in MESA"),
        "Leg": CohortLabel(None, "a 32-Hz piezo sensor in MESA, not an EMG"),
    },
    "cfs": _chin_pair("CFS") | _position("codes of CFS"),
    "ccshs": _chin_pair("CCSHS") | _position("codes of CCSHS"),
    "slpdb": _chin("the MIT-BIH polysomnographic database"),
    # What data_pipelines.synthetic writes.
    "synthetic": _position(
        "codes of simulated recordings", ("upright", "supine", "left", "right", "prone")
    ),
    # C3-M2, C4-M1 and E1-M2 were not recorded; these are the nearest ones.
    "sleep_edf": {
        "EEG Fpz-Cz": CohortLabel("eeg_c3", "stand-in: Fpz-Cz, not C3-M2", stand_in=True),
        "EEG Pz-Oz": CohortLabel("eeg_c4", "stand-in: Pz-Oz, not C4-M1", stand_in=True),
        "EOG horizontal": CohortLabel(
            "eog_e1", "stand-in: horizontal EOG, not E1-M2", stand_in=True
        ),
    },
}
